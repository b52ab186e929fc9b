"""Parts that all methods share.

.. include:: README.md
"""
