"""What does not go together with an arrangement of a stream, of whatever family; asked before anything is learnt."""

from __future__ import annotations

from vla_cl.interfaces import Method
from vla_cl.types import ConfigurationError


def require_second_task(arrangement: str, method: Method) -> None:
    """Refuse a method that would do nothing in silence.

    Raises:
        ConfigurationError: It begins with a second experience, and there is none, or it changes nothing at all.
    """
    if arrangement != "sequential" and not method.works_alone:
        if not method.acts:
            raise ConfigurationError(
                f"method {method.name!r} would change nothing with these settings, which is allowed with "
                f"arrangement=sequential only, and arrangement is {arrangement}; use method=sequential (the "
                "reference), or settings that change something"
            )
        alone = "every task is a first one" if arrangement == "independent" else "there is one experience only"
        raise ConfigurationError(
            f"method {method.name!r} begins with the second experience, but with arrangement={arrangement} {alone}; "
            "use method=sequential (the reference), or arrangement=sequential"
        )


def require_no_future_tasks(independent: bool, future_tasks: bool) -> None:
    """Refuse scores of later tasks where every model learns one experience.

    Raises:
        ConfigurationError: Both were asked for.
    """
    if independent and future_tasks:
        raise ConfigurationError(
            "evaluation.future_tasks=true scores tasks that are learnt later, but with arrangement=independent none "
            "is, since every model learns one experience; leave one of the two out"
        )
