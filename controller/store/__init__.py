"""What the controller remembers: `store.py` is what others use, `model.py` of the controller what they get."""

from controller.store.settings import StoreSettings
from controller.store.store import Store

__all__ = ["Store", "StoreSettings"]
