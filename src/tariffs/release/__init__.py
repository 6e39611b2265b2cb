"""Release: the path of a published price table to the charging system.

The job publishes a table as a draft.  People approve it, charging uses it, another one replaces it:
every such step is an entry in an append-only log beside the releases.  `active.json` names the
table that charging uses; the log has the reasons.

The modules, from bottom to top (no import runs upwards):
  states        the states of a release, and their transitions: one total table
  decision_log  the entries, and the states that follow from them
  tables        a price table's columns, as bytes and as rows
  rule          the prices of the rule of thumb, as a table
  delta         the difference between two tables, and its application
  panel         the sales, as a rectangle of units and weeks
  effect        difference in differences between repriced and control units
  drift         realised against expected volume, week by week
  guards        the checks that a table must pass before charging may use it
  measure       the effects of a table, from the table and a panel
  tmf620        a price table as TM Forum's ProductOfferingPrice
  repository    the releases, the log and the pointer, as objects of a store
  clock         the time that counts as now, and the account of the person who decides
  catalogue, sales   the sources of the run that made a table
  actions       approve, start a canary, activate, withdraw, kill, set limits
  files         deltas and exports, for other systems
  outcome       the choice of the table to measure, of its time, and of the sales
  show, show_outcome   the output for people

The modules from `repository` on use the engine; those before it in this list do not.
"""
