"""A policy document's tests run by the CA, without putting the document in force."""

from ca_service.enrollment.expectations import outcome
from ca_service.operations.bounds import MAX_POLICY
from ca_service.operations.context import Json, Operation, OperationContext, text_block
from ca_service.operations.policy_tests import evidence_argument, try_here
from ca_service.policy import load_complete
from vtpm.wire.encoding import Members


def test(context: OperationContext, arguments: Members) -> Json:
    """Run the tests of the document `text` as `policy-apply` would, and change nothing.

    `evidence` are the files that its tests name; what this CA keeps need not be sent.
    """
    text = text_block(arguments, "text", MAX_POLICY)
    sent = evidence_argument(arguments)
    arguments.end()
    policy = load_complete(text)
    tried, _found = try_here(context, policy, sent)
    return outcome(policy, tried)


OPERATIONS = (Operation("policy-test", test),)
