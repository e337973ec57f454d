def test_a_real_quote(scene):
    verdict = scene.verify()
    assert verdict.admitted, verdict.trace
