"""Several node processes on one machine under one parent: `perdure run --nodes N`.

supervisor (starts, restarts and stops the nodes) · child (one process) · restarts (when it is started again) ·
channel (what parent and child tell each other; the child's end) · ground (the store and the placement that the parent
holds for them) · output (one terminal for all) · folder (where the store's socket is)
"""
