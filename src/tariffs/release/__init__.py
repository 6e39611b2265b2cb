"""Release: what becomes of a published price table until charging uses it.

The job publishes a table as a draft.  People approve it, charging uses it, another replaces it: every such step is an entry in a log
beside the releases, which nobody rewrites.  `active.json` says what charging uses; the log says why.

The rooms, from the ground up (no import runs upwards):
  states      what may happen to a release: one total table
  log         the entries, and what follows from them
  tables      a price table's columns, as bytes and as rows
  rule        the prices of the rule of thumb, as a table of its own
  delta       what differs between two tables, and a table made of another and a delta
  guards      what must be true of a table before charging may use it
  tmf620      a price table as TM Forum's ProductOfferingPrice
  shelf       the releases, the log and the pointer, as objects of a store
  afar        how an entry is written once in S3
  catalogue   the product catalogue that a table was priced on
  verbs       approve, activate, withdraw, kill, set limits
  files       deltas and exports, for other systems
  show        all of it, for people

`shelf`, `afar`, `catalogue`, `verbs`, `files` and `show` know the engine's doors, releases and errors; what is above them in this list does not.
"""
