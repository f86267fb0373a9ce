"""From the policy as written (protobuf) to the policy as decided by: checks everything, then builds it whole.

With `refusals` and the other `compile_` modules, the only one that reads the protobuf policy; no protobuf object
leaves them. Every error is collected and names its field; a policy with one error is no policy.
"""

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from math import inf
from pathlib import PurePath
from typing import Final

from agent.model import Category, ConfigErrors
from agent.numbers.dno import DnoList
from agent.numbers.patterns import NumberPatterns
from agent.policy.compile_identity import compile_identity, compile_signing
from agent.policy.compile_parts import DAY, Parts, default_country
from agent.policy.counters import BANK_MAX, Rate
from agent.policy.leases import Partition
from agent.policy.policy import (
    UNVOUCHED,
    CallerIdSpec,
    DnoSpec,
    EmergencySpec,
    IdentitySpec,
    LimitSpec,
    Mode,
    Policy,
    ProviderBlock,
    ProviderBlockSpec,
    Scope,
    SubscriberListSpec,
)
from agent.policy.trunks import UNKNOWN, AddressBook, Network, Networks, Trunk
from sbcedge.policy.v1 import policy_pb2 as pb

COUNTRY: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
PREFIX: Final = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)
HOST_PORT: Final = re.compile(r"(?:[a-zA-Z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
PASS_CODES: Final = (302, 404, 503)
SHORT_CODE: Final = re.compile(r"[0-9]{2,6}", re.ASCII)
# Names of the built-in rules; a limit must not borrow one, or a verdict would name the wrong rule.
RESERVED_NAMES: Final = frozenset(
    {
        "emergency",
        "provider-block",
        "do-not-originate",
        "caller-id-authorisation",
        "identity",
        "subscriber-list",
        "analytics",
    }
)
RATE_MAX: Final = 1e7
# A day: what must be kept away for longer is for the firewall of whoever runs the network.
BLOCK_MAX: Final = 86_400.0
WARN_FIRST_MAX: Final = 10_000
NUMBERLESS: Final = "anonymous"

SCOPES: Final = {
    pb.SCOPE_GLOBAL: Scope.GLOBAL,
    pb.SCOPE_TRUNK: Scope.TRUNK,
    pb.SCOPE_CUSTOMER: Scope.CUSTOMER,
    pb.SCOPE_CALLING: Scope.CALLING,
    pb.SCOPE_CALLED: Scope.CALLED,
    pb.SCOPE_CALLED_PREFIX: Scope.CALLED_PREFIX,
    pb.SCOPE_SIGNER: Scope.SIGNER,
}
ATTESTATIONS: Final = ("A", "B", "C", UNVOUCHED)
# Every key of a fleet's limit is leased by itself: their number must not grow with the callers.
FLEET_SCOPES: Final = (Scope.GLOBAL, Scope.TRUNK, Scope.CUSTOMER, Scope.CALLED_PREFIX)
PARTITIONS: Final = {
    pb.PARTITION_SAFE: Partition.SAFE,
    pb.PARTITION_HOLD: Partition.HOLD,
    pb.PARTITION_OPEN: Partition.OPEN,
}


def compile_policy(message: pb.Policy, lists: Mapping[str, DnoList]) -> Policy:
    """Build the policy; `lists` holds the opened do-not-originate list of every name that the policy uses.

    Raises ConfigErrors, which holds every ConfigError found.
    """
    return _Compiler(message, lists).run()


class _Compiler(Parts):
    """One compilation: gathers errors while it builds."""

    def __init__(self, message: pb.Policy, lists: Mapping[str, DnoList]) -> None:
        super().__init__()
        self._message = message
        self._lists = lists

    def run(self) -> Policy:
        message = self._message
        inventory = self._customers()
        addresses = self._addresses()
        self.allow = self.allow_list(message.allow, "allow")
        dno = self._dno()
        identity = compile_identity(self, message)
        policy = Policy(
            generation=message.generation,
            name=message.name,
            addresses=addresses,
            emergency=self._emergency(identity),
            provider_block=self._provider_block(),
            dno=dno,
            caller_id=self._caller_id(inventory),
            limits=self._limits(),
            subscriber_lists=self._subscriber_lists(),
            identity=identity,
            signing=compile_signing(self, message, inventory),
            list_versions=tuple(f"{name} {dno_list.version}" for name, dno_list in (dno.lists if dno else ())),
        )
        if self.errors:
            raise ConfigErrors(self.errors)
        return policy

    # -- who calls ------------------------------------------------------------------------------------------

    def _customers(self) -> dict[str, NumberPatterns]:
        inventory = {}
        for i, customer in enumerate(self._message.customers):
            field = f"customers[{i}]"
            self.identifier(customer.id, f"{field}.id", self.customer_ids)
            if customer.numbers:
                inventory[customer.id] = self.patterns(customer.numbers, f"{field}.numbers")
        return inventory

    def _addresses(self) -> AddressBook:
        trunks: dict[Network, Trunk] = {}
        for i, written in enumerate(self._message.trunks):
            field = f"trunks[{i}]"
            trunk = self._trunk(written, field)
            if not written.sources:
                self.wrong(f"{field}.sources", "a trunk needs at least one address")
            for network, where in self._networks(written.sources, f"{field}.sources"):
                if network in trunks:
                    self.wrong(where, f"{network} already belongs to trunk {trunks[network].id}")
                trunks[network] = trunk
        local = Networks(n for n, _ in self._networks(self._message.local_addresses, "local_addresses"))
        return AddressBook(trunks, local, frozenset(self.customer_ids))

    def _trunk(self, written: pb.Trunk, field: str) -> Trunk:
        self.identifier(written.id, f"{field}.id", self.trunk_ids)
        if written.id == UNKNOWN.id:
            self.wrong(f"{field}.id", "this name is kept for addresses that no trunk claims")
        if written.customer:
            self.known(written.customer, self.customer_ids, f"{field}.customer", "customers")
        country = default_country(written)
        if country and not COUNTRY.fullmatch(country):
            self.wrong(f"{field}.default_country", f'"{country}" is no country code; "1", "44", ... or "none"')
        pass_code, next_hop = self._redirect(written.redirect, f"{field}.redirect")
        return Trunk(
            id=written.id,
            customer=written.customer,
            upstream=written.upstream or written.id,
            default_country=country,
            trust_asserted_identity=written.trust_asserted_identity,
            pass_code=pass_code,
            next_hop=next_hop,
            returns_identity=written.redirect.identity,
        )

    def _redirect(self, written: pb.RedirectAnswer, field: str) -> tuple[int, str]:
        code = written.code or (302 if written.next_hop else 404)
        if code not in PASS_CODES:
            self.wrong(f"{field}.code", f"{code} lets no call pass; {', '.join(map(str, PASS_CODES))} do")
        if (code == 302) != bool(written.next_hop):
            self.wrong(f"{field}.next_hop", "goes with 302, and 302 needs it")
        elif written.next_hop and not HOST_PORT.fullmatch(written.next_hop):
            self.wrong(f"{field}.next_hop", "is no host, host:port or [address]:port")
        if written.identity and code != 302:
            self.wrong(f"{field}.identity", "goes with 302; other answers carry no headers to the next leg")
        return code, written.next_hop

    def _networks(self, texts: Iterable[str], field: str) -> Iterable[tuple[Network, str]]:
        for i, text in enumerate(texts):
            where = f"{field}[{i}]"
            try:
                yield ip_network(text), where
            except ValueError as error:
                self.wrong(where, f"{error}")

    # -- rules ----------------------------------------------------------------------------------------------

    def _emergency(self, identity: IdentitySpec | None) -> EmergencySpec:
        written = self._message.emergency
        psap_trunks = self.trunks(written.psap_trunks, "emergency.psap_trunks")
        for i, number in enumerate(written.numbers):
            if not SHORT_CODE.fullmatch(number):
                self.wrong(f"emergency.numbers[{i}]", f'"{number}" is no dialled code of 2 to 6 digits')
        return EmergencySpec(
            numbers=frozenset(written.numbers),
            psap_calling=self.patterns(written.psap_calling, "emergency.psap_calling"),
            psap_sources=Networks(n for n, _ in self._networks(written.psap_sources, "emergency.psap_sources")),
            # Shadow decides nothing, here either: only verification that is enforced takes belief away.
            believed=psap_trunks if identity is not None and identity.mode is Mode.ENFORCE else None,
        )

    def _provider_block(self) -> ProviderBlockSpec | None:
        written = self._message.provider_block
        rule = self.rule(written, Category.PROVIDER_BLOCK, "provider_block")
        blocks = tuple(self._block(b, f"provider_block.blocks[{i}]") for i, b in enumerate(written.blocks))
        return ProviderBlockSpec(rule, blocks) if rule and blocks else None

    def _block(self, written: pb.ProviderBlock, field: str) -> ProviderBlock:
        if bool(written.trunk) == bool(written.upstream):
            self.wrong(field, "name either trunk or upstream")
        if written.trunk:
            self.known(written.trunk, self.trunk_ids, f"{field}.trunk", "trunks")
        starts = self.time(written.starts_at, f"{field}.starts_at", -inf)
        ends = self.time(written.ends_at, f"{field}.ends_at", inf)
        if ends <= starts:
            self.wrong(f"{field}.ends_at", "must be after starts_at")
        return ProviderBlock(written.trunk, written.upstream, starts, ends, written.reference)

    def _dno(self) -> DnoSpec | None:
        written = self._message.do_not_originate
        rule = self.rule(written, Category.DO_NOT_ORIGINATE, "do_not_originate")
        lists = []
        for i, name in enumerate(written.lists):
            dno_list = self._lists.get(name)
            if dno_list is None:
                self.wrong(f"do_not_originate.lists[{i}]", f"no such list: {name}")
            else:
                lists.append((PurePath(name).name, dno_list))
        if rule is None or not self._message.HasField("do_not_originate"):
            return None
        return DnoSpec(rule, tuple(lists), not written.allow_invalid_numbers)

    def _caller_id(self, inventory: Mapping[str, NumberPatterns]) -> CallerIdSpec | None:
        written = self._message.caller_id_authorisation
        field = "caller_id_authorisation"
        rule = self.rule(written, Category.CALLER_ID, field)
        if not -1 <= written.warn_first <= WARN_FIRST_MAX:
            self.wrong(f"{field}.warn_first", f"must be -1 (none) to {WARN_FIRST_MAX}")
        period = self.seconds(written.period_seconds, f"{field}.period_seconds", DAY)
        suspend = self.seconds(written.suspend_seconds, f"{field}.suspend_seconds", 0.0)
        warn_first = 0 if written.warn_first == -1 else written.warn_first or 1
        if rule is None or not inventory or not self._message.HasField("caller_id_authorisation"):
            return None
        return CallerIdSpec(rule, inventory, warn_first, period, suspend)

    def _limits(self) -> tuple[LimitSpec, ...]:
        names: set[str] = set()
        written = [self._limit(w, f"limits[{i}]", names) for i, w in enumerate(self._message.limits)]
        specs = tuple(spec for spec in written if spec is not None)
        rated = sum(spec.rate is not None for spec in specs)
        if rated > BANK_MAX:
            self.wrong("limits", f"{rated} rate limits; at most {BANK_MAX} (one limit counts many trunks or numbers)")
        return specs

    def _limit(self, written: pb.Limit, field: str, names: set[str]) -> LimitSpec | None:
        self.identifier(written.name, f"{field}.name", names)
        if written.name in RESERVED_NAMES:
            self.wrong(f"{field}.name", "is the name of a built-in rule")
        rule = self.rule(written, Category.LIMIT, field)
        scope = SCOPES.get(written.scope)
        if scope is None:
            self.wrong(f"{field}.scope", "say what to count by: " + ", ".join(s.value for s in Scope))
        self._prefixes(written, field)
        self._vouchers(written, field)
        trunks = self.trunks(written.trunks, f"{field}.trunks")
        for i, name in enumerate(written.customers):
            self.known(name, self.customer_ids, f"{field}.customers[{i}]", "customers")
        rate = self._rate(written, field)
        if rate is None and not written.sessions:
            self.wrong(field, "needs a rate, sessions, or both")
        if not 0 <= written.warn_at <= 1:
            self.wrong(f"{field}.warn_at", "is a share from 0 to 1")
        drop_above = written.drop_above or inf
        if drop_above < inf and (rate is None or drop_above * rate.window <= rate.count):
            self.wrong(f"{field}.drop_above", "a flood threshold lies above the rate")
        block = written.block_source_seconds
        if not 0 <= block <= BLOCK_MAX:
            self.wrong(f"{field}.block_source_seconds", f"must be from 0 to {BLOCK_MAX:g}")
        fleet = self._fleet(written, scope, rate, field)
        if rule is None or scope is None:
            return None
        return LimitSpec(
            rule,
            written.name,
            scope,
            trunks,
            frozenset(written.customers),
            frozenset(written.called_prefixes),
            rate,
            written.sessions,
            written.warn_at or 0.8,
            drop_above,
            block,
            fleet,
            frozenset(written.attestations),
        )

    def _fleet(self, written: pb.Limit, scope: Scope | None, rate: Rate | None, field: str) -> Partition | None:
        if not written.fleet:
            return None
        if rate is None:
            self.wrong(f"{field}.fleet", "goes with a rate; calls in progress are counted by each agent")
        if scope is not None and scope not in FLEET_SCOPES:
            self.wrong(f"{field}.fleet", "goes with the scopes " + ", ".join(s.value for s in FLEET_SCOPES))
        if written.fleet not in PARTITIONS:
            self.wrong(f"{field}.fleet", f"has the value {written.fleet}, which this version does not know")
        return PARTITIONS.get(written.fleet)

    def _vouchers(self, written: pb.Limit, field: str) -> None:
        for i, attestation in enumerate(written.attestations):
            if attestation not in ATTESTATIONS:
                self.wrong(f"{field}.attestations[{i}]", f'"{attestation}" is none of ' + ", ".join(ATTESTATIONS))
        if self._message.HasField("identity") and self._message.identity.mode != pb.MODE_OFF:
            return
        if written.attestations:
            self.wrong(f"{field}.attestations", "needs the identity rule: without it nothing is verified")
        if written.scope == pb.SCOPE_SIGNER:
            self.wrong(f"{field}.scope", "signer needs the identity rule: without it nothing is verified")

    def _prefixes(self, written: pb.Limit, field: str) -> None:
        if (written.scope == pb.SCOPE_CALLED_PREFIX) != bool(written.called_prefixes):
            self.wrong(f"{field}.called_prefixes", "goes with scope called_prefix, and that scope needs it")
        for i, prefix in enumerate(written.called_prefixes):
            if not PREFIX.fullmatch(prefix):
                self.wrong(f"{field}.called_prefixes[{i}]", f'"{prefix}" is no E.164 prefix (digits without "+")')

    def _rate(self, written: pb.Limit, field: str) -> Rate | None:
        window = self.seconds(written.window_seconds, f"{field}.window_seconds", 1.0)
        if not written.rate:
            if written.burst:
                self.wrong(f"{field}.burst", "goes with a rate")
            return None
        if not 0 < written.rate <= RATE_MAX:
            self.wrong(f"{field}.rate", f"must be above 0 and at most {RATE_MAX:g} attempts per window")
            return None
        burst = written.burst or max(1.0, written.rate / 3)
        if not 1 <= burst <= RATE_MAX:
            self.wrong(f"{field}.burst", f"must be from 1 to {RATE_MAX:g} attempts")
            return None
        return Rate(written.rate, window, burst)

    def _subscriber_lists(self) -> SubscriberListSpec | None:
        written = self._message.subscriber_lists
        rule = self.rule(written, Category.SUBSCRIBER, "subscriber_lists")
        unwanted: dict[str, NumberPatterns] = {}
        no_anonymous = set()
        for i, entry in enumerate(written.lists):
            field = f"subscriber_lists.lists[{i}]"
            called = self.patterns([entry.called], f"{field}.called").single()
            if called is None:
                self.wrong(f"{field}.called", "one number, not a prefix or a range")
                continue
            if called in unwanted:
                self.wrong(f"{field}.called", f"{called} has a list already")
            if NUMBERLESS in entry.unwanted:
                no_anonymous.add(called)
            numbers = [n for n in entry.unwanted if n != NUMBERLESS]
            unwanted[called] = self.patterns(numbers, f"{field}.unwanted")
        return SubscriberListSpec(rule, unwanted, frozenset(no_anonymous)) if rule and unwanted else None
