"""${message}"""
<%!
def steps(text):
    """Without Alembic's comments around them."""
    return "\n".join(line for line in (text or "pass").splitlines() if not line.strip().startswith("# ###")).lstrip()
%>
from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades | steps}


def downgrade() -> None:
    ${downgrades | steps}
