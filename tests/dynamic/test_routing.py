"""What a config says of routing, and what is refused."""

import pytest

from dynnas_jax.dynamic import routing


def test_what_is_asked():
    plain = routing.asked()
    assert (plain.router.name, plain.router.confidence, plain.optimal) == ("confidence", "max_softmax", "little_right")
    assert (plain.fit, plain.threshold, plain.compare) == ({}, None, False)
    found = routing.asked(
        router="difficulty", router_place="stem", router_statistics=("mean",), router_l2=2.0, router_folds=3
    )
    assert (found.router.place, found.router.statistics) == ("stem", ("mean",))
    assert found.fit == {"l2": 2.0, "folds": 3}
    assert routing.asked(router="learned", router_units=5, router_fit="afterwards").jointly is False


def test_the_routers_that_are_compared():
    assert len(routing.tried(routing.asked(router="learned"))) == 1
    tried = routing.tried(routing.asked(router="difficulty", router_place="stem", compare_routers=True))
    labels = [router.label for router in tried]
    assert labels == [
        "difficulty (stem)",
        *(f"confidence ({score})" for score in ("max_softmax", "margin", "entropy")),
        "learned (after little)",
        "difficulty (after little)",
    ]
    assert tried[-1].statistics == ("mean", "variance", "entropy", "norm")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"router": "oracle"}, r"^dynamic.router is 'oracle', choose from \['confidence', 'learned', 'difficulty'\]$"),
        ({"score": "luck"}, r"^dynamic.score is 'luck', choose from \['max_softmax', 'margin', 'entropy'\]$"),
        ({"optimal": "never"}, r"^dynamic.optimal is 'never', choose from \['little_right', "),
        ({"threshold": 1.2}, r"^dynamic.threshold is 1.2, must be a number from 0 to 1"),
        ({"threshold": float("nan")}, r"^dynamic.threshold is nan, must be"),
        ({"threshold": True}, r"^dynamic.threshold is True, must be"),
        ({"router_units": 8}, r"router_units does nothing for router 'confidence'; write dynamic.router='learned', or"),
        (
            {"router": "learned", "router_place": "stem"},
            r"router_place does nothing .* write dynamic.router='difficulty'",
        ),
        ({"router_folds": 3}, r"write dynamic.router='learned' or dynamic.router='difficulty', or leave it out$"),
        (
            {"router": "learned", "router_units": 0},
            r"^dynamic.router_units is 0, must be a whole number of at least 1$",
        ),
        (
            {"router": "learned", "router_fit": "never"},
            r"router_fit is 'never', choose from \['jointly', 'afterwards'\]",
        ),
        ({"router": "learned", "router_l2": 0}, r"^dynamic.router_l2 is 0, must be a number above 0$"),
        ({"router": "learned", "router_folds": 1}, r"router_folds is 1, must be a whole number of at least 2$"),
        ({"router": "difficulty", "router_place": "big"}, r"router_place is 'big', choose from \['little', 'stem'\]$"),
        (
            {"router": "difficulty", "router_statistics": ("mode",)},
            r"router_statistics is \('mode',\) .*choose from \['mean'",
        ),
        ({"router": "difficulty", "router_statistics": ()}, r"router_statistics is \(\) .*choose from"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        routing.asked(**options)
