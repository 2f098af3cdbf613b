"""The algebra of the latent space: factors without weights.

Four laws: encoder outputs concatenate; content concatenates; poses multiply; KLs add.
"""

from atomvae.latent.content import Categorical, Code, Condition, Gaussian
from atomvae.latent.factor import Branches, Factor
from atomvae.latent.pose import Angle, Pose, Rotation, Scale, Shear, Shift

__all__ = [
    "Angle",
    "Branches",
    "Categorical",
    "Code",
    "Condition",
    "Factor",
    "Gaussian",
    "Pose",
    "Rotation",
    "Scale",
    "Shear",
    "Shift",
]
