"""The versions of what is measured beside."""

import platform

import pandas
import polars
import torch

import steps

steps.answer(Python=platform.python_version(), pandas=pandas.__version__, polars=polars.__version__, torch=torch.__version__)
