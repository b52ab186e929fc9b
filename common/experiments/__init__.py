"""Studies, stages of the tour, and the rehearsal of a test.

.. include:: ../../configs/README.md
"""
