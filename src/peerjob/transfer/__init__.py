"""Moves a namespace from one store to another: the export and the import, as lines of JSON.

Read in this order: `lines` (each line of an export), `exporting`, `importing`. Of the layers below, it imports model
and store. No node takes part.
"""
