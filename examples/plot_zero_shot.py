"""
Cells that the featurizer has never seen
========================================

A featurizer learns, without labels, from one cell line. Then come three other lines,
from another microscope, with their stains in another order and under other names.
`ChannelAdapter` says which stain plays which, and `ZeroShotClassifier` learns the new
lines from five images each; a fourth line is added to it afterwards.
"""

# %%
# Two collections: one to train on, one of cells and intensities new to the featurizer.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.pipeline import make_pipeline

from gandl import ChannelAdapter, GANDLFeaturizer, ImageCollection, ZeroShotClassifier
from gandl.datasets import make_screen

options = {"n_compounds": 0, "n_controls": 8, "image_size": 64}
known, _ = make_screen(
    n_plates=2, cell_types=["cobblestone"], random_state=0, **options
)
lines = ["colony", "round", "spindle", "spread"]
screen, _ = make_screen(n_plates=2, cell_types=lines, random_state=1, **options)
elsewhere = ImageCollection.from_array(
    3 * np.asarray(screen)[:, [2, 0, 1]] + 400,
    channels=["phalloidin", "Hoechst", "ConA"],
    metadata=screen.metadata,
)
print(elsewhere)

# %%
# Training sees one line only, and no label.

featurizer = GANDLFeaturizer(max_kimg=0.5, channel_max=16, random_state=0).fit(known)

# %%
# The adapter learns the intensity range of the new images, without labels, and maps it
# to the range that the featurizer knows. ``FrozenEstimator`` keeps what is fitted.

frozen = FrozenEstimator(featurizer)
adapter = ChannelAdapter(
    featurizer=frozen,
    channels={"DNA": "Hoechst", "ER": "ConA", "actin": "phalloidin"},
)
embeddings = make_pipeline(adapter, frozen).fit_transform(elsewhere)

# %%
# Plates are held out. Five images of each of three lines are all that is labelled.

line = elsewhere.metadata["cell_type"].to_numpy()
plate = elsewhere.metadata["plate"].to_numpy()
held_out = np.isin(plate, [plate[line == name].max() for name in lines])


def examples(name, n=5):
    return np.flatnonzero(~held_out & (line == name))[:n]


rows = np.concatenate([examples(name) for name in ("colony", "round", "spindle")])
classifier = ZeroShotClassifier().fit(embeddings[rows], line[rows])

# %%
# A fourth line comes later. The odds of the others stay as they are.

new = examples("spread")
classifier.add_classes(embeddings[new], line[new])

# %%
# Left, how often each line is taken for each; right, how sure the classifier was.

predicted = classifier.predict(embeddings[held_out])
sure = classifier.predict_proba(embeddings[held_out]).max(axis=1)
right = predicted == line[held_out]

figure, (left, middle) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
ConfusionMatrixDisplay.from_predictions(
    line[held_out],
    predicted,
    normalize="true",
    values_format=".2f",
    ax=left,
    cmap="Blues",
    colorbar=False,
)
left.set(
    title="Lines never trained on, five labels each", xlabel="predicted", ylabel="true"
)
bins = np.linspace(0.25, 1, 16)
middle.hist(
    [sure[right], sure[~right]],
    bins,
    stacked=True,
    color=["#4477aa", "#cc6677"],
    label=["right", "wrong"],
)
middle.set(
    title="Probability of the predicted line", xlabel="probability", ylabel="images"
)
middle.legend(frameon=False)
plt.show()
