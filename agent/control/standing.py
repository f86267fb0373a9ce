"""What a managed agent starts with: the last known good of its disk, and no controller needed.

An edge: reads files. The newest slot that is whole, whose lists are whole and that compiles; else the other one; else
the policy file, for an agent that was never given anything; else a policy under which every call passes. A managed
agent always starts: what is wrong it says, and the controller can put right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.control.artifacts import ArtifactFiles
from agent.control.credentials import CredentialFiles
from agent.control.messages import Offer
from agent.control.preparing import compile_offer
from agent.control.settings import ControllerSettings
from agent.control.slots import Slots
from agent.control.steps import Standing
from agent.loading import load_policy
from agent.model import ConfigError
from agent.policy.compile import compile_policy
from agent.policy.policy import Policy
from sbcedge.policy.v1 import policy_pb2

LISTS: Final = "lists"


@dataclass(frozen=True, slots=True)
class Places:
    """The agent's directory."""

    slots: Slots
    artifacts: ArtifactFiles
    credentials: CredentialFiles

    @classmethod
    def of(cls, settings: ControllerSettings) -> "Places":
        """Opens nothing."""
        directory = settings.directory
        return cls(Slots(directory), ArtifactFiles(directory / LISTS), CredentialFiles(directory))


def find_standing(settings: ControllerSettings, policy_file: Path) -> Standing:
    """Never raises for anything that is on the disk."""
    places = Places.of(settings)
    offers = places.slots.load()
    problems = list(places.slots.problems)
    journal = places.slots.load_journal()
    problems = list(dict.fromkeys([*problems, *places.slots.problems]))
    for offer in offers:
        try:
            return Standing(_open(offer, places), offer, journal, tuple(problems))
        except ConfigError as error:
            problems.append(f"generation {offer.generation}, last known good: {error}")
    try:
        return Standing(load_policy(policy_file), None, journal, tuple(problems))
    except ConfigError as error:
        text = str(error)
        problems.append(text if text.startswith(str(policy_file)) else f"{policy_file}: {text}")
    return Standing(compile_policy(policy_pb2.Policy(), {}), None, journal, tuple(problems))


def _open(offer: Offer, places: Places) -> Policy:
    for n, manifest in enumerate(offer.manifests):
        if not places.artifacts.intact(manifest):
            raise ConfigError(f"artifacts[{n}]", f"{manifest} is damaged or missing")
    return compile_offer(offer, places.artifacts)
