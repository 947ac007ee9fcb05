"""What a pass says of pages that cannot be read."""

from typing import Any

from test_machine import a_run

from controller.beside import trouble
from controller.ports import Trouble


def said(**since: float) -> str:
    """Of these pods, whose pages cannot be read since then."""
    pods = {name.replace("_", "-"): at for name, at in since.items()}

    class Pages:
        def troubles(self, _run: str) -> dict[str, Trouble]:
            return {
                pod: Trouble(since=at, failures=20, what=f"no answer of {pod[-1]}")
                for pod, at in pods.items()
            }

    pages: Any = Pages()
    return trouble(pages, a_run(), "lab/run")


def test_of_all_pods_that_cannot_be_read_one_of_the_canary_s_is_named() -> None:
    """`no metrics page of model-canary can be read` was followed by the name of a pod of stable."""
    found = said(model_old_a=0, model_canary_new_b=9, model_canary_new_c=5)
    assert found == "model-canary-new-c (and 2 more): no answer of c"
    assert said(model_old_a=0) == "model-old-a: no answer of a"
