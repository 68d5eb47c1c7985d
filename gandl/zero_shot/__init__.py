"""A fitted featurizer on images of another collection: stains and classes new to it."""

from gandl.zero_shot._channel_adapter import ChannelAdapter
from gandl.zero_shot._classifier import ZeroShotClassifier

__all__ = ["ChannelAdapter", "ZeroShotClassifier"]
