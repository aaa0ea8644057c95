"""Each known issue's pinned case still fails where its condition holds; elsewhere it is reported."""

from bscheck.gate import known_issues

known_issue = known_issues()
