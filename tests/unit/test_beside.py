"""What a pass says of pages that cannot be read."""

from typing import Any

from test_machine import a_run

from controller.beside import trouble
from controller.ports import Trouble


def said(*read: str, young: tuple[str, ...] = (), **since: float) -> str:
    """Of these pods, whose pages cannot be read since then; `young` are those that failed but twice."""
    pods = {name.replace("_", "-"): at for name, at in since.items()}

    class Pages:
        def read(self, _run: str) -> dict[str, None]:
            return dict.fromkeys(read)

        def troubles(self, _run: str) -> dict[str, Trouble]:
            return {
                pod: Trouble(since=at, failures=2 if pod in young else 20, what=f"no answer of {pod[-1]}")
                for pod, at in pods.items()
            }

    pages: Any = Pages()
    return trouble(pages, a_run(), "lab/run")


def test_of_all_pods_that_cannot_be_read_one_of_the_canary_s_is_named() -> None:
    """`no metrics page of model-canary can be read` was followed by the name of a pod of stable."""
    found = said(model_old_a=0, model_canary_new_b=9, model_canary_new_c=5)
    assert found == "model-canary-new-c (and 1 more and 1 of model): no answer of c"


def test_a_pod_of_stable_is_said_to_be_one() -> None:
    """Of `model-old-a (and 2 more)` nobody can tell that none of the three is the canary's."""
    found = said("model-canary-new-b", model_old_a=0, model_old_c=1)
    assert found == "of model's pods, model-old-a (and 1 more): no answer of a"


def test_where_the_canary_has_no_pod_that_is_said() -> None:
    """After `kubectl scale --replicas 0` a pod of stable was named as the canary's."""
    nobody, of_stable = said(model_old_a=0).split("; ")
    assert nobody == "model-canary has no pod that could be asked"
    assert of_stable == "of model's pods, model-old-a: no answer of a"


def test_a_canary_s_new_pods_are_named_before_stable_s_old_ones() -> None:
    young = {"model_old_a": 0.0, "model_canary_new_b": 9.0}
    assert said(young=("model-canary-new-b",), **young).startswith("model-canary-new-b (and 1 of model): ")
    assert said(young=("model-old-a", "model-canary-new-b"), **young) == ""
