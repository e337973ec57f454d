"""What an export says about itself to whoever opens its folder."""

GUIDE = """\
# Export of a CA's log

This folder lets you check what the CA decided and issued. You need one thing from elsewhere: the log's verifier key
(`name+id+key`), from the CA's operator or from where it is published. A key that came with this folder proves nothing.

    vtpm-ca audit verify FOLDER --key KEY [--since OLD_CHECKPOINT]

Each decision can be made anew from evidence, policy, trace and collateral:

    vtpm-ca decision replay all --export FOLDER --key KEY

Keep each `checkpoint` that you have verified. With `--since` a later export must hold the same history, and more.

| here | what it is |
|---|---|
| `checkpoint` | the signed head of the log (C2SP tlog-checkpoint): origin, number of leaves, root |
| `leaves/*.jsonl` | the leaves in their order, one JSON object in each line, 10,000 lines in each file |
| `certificates/SERIAL.cer` | each certificate that a leaf names, DER |
| `evidence/DIGEST` | each request that a decision rests on |
| `traces/DECISION.json` | all that was checked for a decision, what was found, and what the CA knew besides |
| `collateral/NAME` | certificates and lists of AMD's that decisions name; NAME ends with their SHA-256 |
| `policies/DIGEST.toml` | the allow-lists by which was decided |
| `issuers/KEY_ID.pem` | the root and the issuing CAs |

Without the program, in any language:

1. Verify the signature of `checkpoint` (Ed25519 over the text up to and with the line end before the empty line). The
   public key is the last 32 bytes of what KEY has after its second `+`, in base64; the signature the last 64 bytes of
   the third word of the last line, likewise.
2. The hash of a leaf is SHA-256(00 || line without its line end); of a node SHA-256(01 || left || right). The root over
   all lines in their order (RFC 6962, section 2.1) must be the third line of the checkpoint, their number the second.
3. For each leaf: `sha256`, `evidence` and `trace` are the SHA-256 of the files that belong to it. The digest of a
   policy is over what it says, not over the bytes of its file: that takes the program.

What no leaf names is not covered by the signature, whatever lies here. The files in `issuers/` are not in the log:
compare their fingerprints with those that the CA published.
"""
