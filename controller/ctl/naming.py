"""Which agent somebody means: its id, or its host name where only one has it. Asks the controller."""

from typing import TYPE_CHECKING

from controller.ctl.asking import ControlError
from sbcedge.fleet.v1 import fleet_pb2 as pb

if TYPE_CHECKING:
    from controller.ctl.asking import Fleet

SHOWN = 5


def agent_named(fleet: "Fleet", text: str) -> str:
    """Its id. Raises ControlError, naming those that may be meant."""
    agents = fleet.agents.ListAgents(pb.ListAgentsRequest()).agents
    if any(agent.id == text for agent in agents):
        return text
    named = [agent for agent in agents if agent.hostname == text]
    members = [agent for agent in named if not agent.revoked] or named
    if len(members) == 1:
        return str(members[0].id)
    if members:
        ids = ", ".join(agent.id for agent in members[:SHOWN])
        raise ControlError([f"AGENT: {len(members)} agents are on a host {text}: {ids}"])
    close = [agent.id for agent in agents if text and (text in agent.id or text in agent.hostname)]
    hint = f"; did you mean {', '.join(close[:SHOWN])}?" if close else ": see `sbcctl agents`"
    raise ControlError([f"AGENT: there is no agent {text}{hint}"])
