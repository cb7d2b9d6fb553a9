"""What the server is told to do by itself is there once, whoever says it how often, and follows the settings."""

from __future__ import annotations

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import Automation

from flows import automations
from flows.automations import NOTICE, NOTIFY, OURS, install
from tasks.core.errors import ParamsError
from tasks.core.rules import LimitsParams

ALWAYS = [f"{OURS}: a silent run has crashed", f"{OURS}: a crashed run goes on", f"{OURS}: nobody approved"]


pytestmark = pytest.mark.usefixtures("no_automations")


def there() -> list[Automation]:
    with get_client(sync_client=True) as client:
        return [each for each in client.read_automations() if each.name.startswith(OURS)]


def test_they_are_there_once_and_take_the_newest_limits() -> None:
    for hours in (72.0, 5.0):
        assert install({}, LimitsParams(approval_hours=hours)) == ALWAYS
    found = {each.name: each for each in there()}
    assert sorted(found) == sorted(ALWAYS) and len(there()) == len(ALWAYS)
    assert found[ALWAYS[2]].description.startswith("No answer within 5 h")
    assert all(each.enabled for each in found.values())


def test_who_is_told_is_told_for_as_long_as_it_is_asked_for() -> None:
    block = CustomWebhookNotificationBlock(name="team", url="http://127.0.0.1:1/", json_data={"text": "{{body}}"})
    block.save("automations-team", overwrite=True)
    slug = "custom-webhook/automations-team"
    assert install({NOTIFY: slug}, LimitsParams()) == [*ALWAYS, NOTICE]
    (notice,) = [each for each in there() if each.name == NOTICE]
    assert all(state in notice.description for state in automations.TOLD)
    assert install({}, LimitsParams()) == ALWAYS
    assert NOTICE not in [each.name for each in there()]


@pytest.mark.parametrize("slug", ["slack-webhook/nobody", "nonsense", "", "a/b/c"])
def test_a_block_that_is_not_there_is_named(slug: str) -> None:
    if not slug:
        assert install({NOTIFY: slug}, LimitsParams()) == ALWAYS
        return
    with pytest.raises(ParamsError, match="there is no block"):
        install({NOTIFY: slug}, LimitsParams())
    assert there() == []


def test_a_block_that_notifies_nobody_is_refused() -> None:
    Secret(value="hush").save("automations-secret", overwrite=True)
    with pytest.raises(ParamsError, match="notifies nobody"):
        install({NOTIFY: "secret/automations-secret"}, LimitsParams())
