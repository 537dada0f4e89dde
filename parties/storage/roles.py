"""Which party keeps which tables. A database holds its own party's tables and no other's."""

from __future__ import annotations

from typing import Any, Final

from protocol.engine import COMMON_TABLES
from protocol.roles.bank.tables import BANK_TABLES
from protocol.roles.merchant import MERCHANT_TABLES
from protocol.roles.se.tables import SE_TABLES
from protocol.roles.tsm.tables import TSM_TABLES
from protocol.rows import Table
from protocol.types import Role

TABLES: Final[dict[str, tuple[Table[Any], ...]]] = {
    Role.BANK: (*COMMON_TABLES, *BANK_TABLES),
    Role.TSM: (*COMMON_TABLES, *TSM_TABLES),
    Role.SE: (*COMMON_TABLES, *SE_TABLES),
    Role.MERCHANT: (*COMMON_TABLES, *MERCHANT_TABLES),
}
