"""Most requests for one transaction ask for one that there is, and every other act for one that has something to do for it:
nobody would guess an id."""

import json
import os
import zlib

import schemathesis

with open(os.environ["SETTLE_KNOWN_TRANSACTIONS"]) as file:
    KNOWN = json.load(file)

# Where each act finds something to do.
FITTING = {
    "commit": ["undecided"],
    "rollback": ["undecided"],
    "stop-retry": ["committing", "rolling-back"],
    "resume-retry": ["committing", "rolling-back"],
    "forget": ["committing", "rolling-back"],
    "release-lock": ["rolling-back"],
}


@schemathesis.hook
def before_call(context, case, kwargs):
    if not case.path.startswith("/v1/tx/{id}"):
        return
    # By what was generated, so that a seed chooses the same ones again.
    generated = f"{case.path} {case.path_parameters.get('id')} {case.body!r}"
    choice = zlib.crc32(generated.encode("utf-8", "surrogatepass"))
    kind, choice = choice % 8, choice // 8
    if kind < 2:
        return
    act = case.path.rpartition("/")[2]
    among = KNOWN
    if kind < 5 and act in FITTING:
        among = [known for known in KNOWN if known["standing"] in FITTING[act]]
    choice, index = divmod(choice, len(among))
    known = among[index]
    case.path_parameters["id"] = known["id"] if kind % 2 else known["xid"]
    is_sound = case.meta is not None and case.meta.generation.mode.is_positive
    if act == "release-lock" and is_sound and isinstance(case.body, dict):
        case.body["branch"] = known["branch"]
        # All rows of the branch, one of them, or whatever was generated.
        if choice % 3 < 2:
            case.body["rows"] = ["", known["row"]][choice % 3]
