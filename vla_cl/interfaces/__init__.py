"""What one can add: a model, a policy, a suite, a method, an evaluator, a family. A new one is a new file and a yaml.

Only typing needs torch here: simulator workers import this package and must start quickly.
"""

from vla_cl.interfaces.data import Data
from vla_cl.interfaces.evaluation import Evaluator
from vla_cl.interfaces.family import Family
from vla_cl.interfaces.method import Method
from vla_cl.interfaces.model import Distillable, Generator, Model, Policy
from vla_cl.interfaces.policy_abilities import (
    GivesFeatures,
    GivesKeyedDraws,
    GivesModalities,
    GivesOutputs,
    SharesComputation,
)
from vla_cl.interfaces.simulation import Environment, Expert, Suite

__all__ = [
    "Data",
    "Distillable",
    "Environment",
    "Evaluator",
    "Expert",
    "Family",
    "Generator",
    "GivesFeatures",
    "GivesKeyedDraws",
    "GivesModalities",
    "GivesOutputs",
    "Method",
    "Model",
    "Policy",
    "SharesComputation",
    "Suite",
]
