"""Release: what becomes of a published price table until charging uses it.

The job publishes a table as a draft.  People approve it, charging uses it, another replaces it: every such step is an entry in a log
beside the releases, which nobody rewrites.  `active.json` says what charging uses; the log says why.

The rooms, from the ground up (no import runs upwards):
  states      what may happen to a release: one total table
  log         the entries, and what follows from them
  tables      a price table's columns, as bytes and as rows
  rule        the prices of the rule of thumb, as a table of its own
  delta       what differs between two tables, and a table made of another and a delta
  panel       what was sold, as a rectangle of units and weeks
  effect      difference in differences between repriced and control units
  drift       realised against expected volume, week by week
  guards      what must be true of a table before charging may use it
  measure     what a table did, of a table and a panel
  tmf620      a price table as TM Forum's ProductOfferingPrice
  shelf       the releases, the log and the pointer, as objects of a store
  catalogue, sales   what the run that made a table had read
  verbs       approve, activate, withdraw, kill, set limits
  files       deltas and exports, for other systems
  outcome     which table is measured, since when, and on whose sales
  show, show_outcome   all of it, for people

`shelf`, `catalogue`, `sales`, `verbs`, `files`, `outcome` and the two `show`s know the engine's doors, releases and errors; what is above them in this list does not.
"""
