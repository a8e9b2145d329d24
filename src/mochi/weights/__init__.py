"""From files on a disk or a hub to modules with their weights in place.

`loading` builds the networks, `folder` finds the files of a model, `hub` fetches them, `names`
holds the tables between layouts.
"""
