"""The model.yaml that `autotune init` writes: commented, and running as it is."""

from __future__ import annotations

from autotune.local_files import slug
from autotune.yaml_source import yaml_line

__all__ = ["starter_yaml"]

TEMPLATE = """\
# A study of autotune: `autotune search model.yaml` runs it, the same command again continues it.
# For completion and checks in an editor, run `autotune schema > model.schema.json` and make this the first line:
#     # yaml-language-server: $schema=model.schema.json

# A Hugging Face id, or a folder (Hugging Face or OpenVINO) relative to this file.
{model}

# Where results go, relative to the folder that the command runs in.
{output}

# The text that the compression algorithms learn from; keep it apart from the text that scores come from.
# A text file of your own serves as well: {{path: calibration.txt, samples: 128, sequence_length: 512}}
calibration: {{dataset: Salesforce/wikitext, name: wikitext-2-raw-v1, split: train, samples: 128, sequence_length: 512}}

# What may be tried: a preset (`autotune spaces` lists them: quick, int4, full, footprint, accuracy), a YAML file of
# yours, or the space itself, such as {{mode: [int4_asym, int4_sym], group_size: [64, 128], ratio: 1.0}}
space: int4

# How a compressed model is scored against the original (`autotune evaluators` lists them all).
evaluators:
  similarity: {{prompts: default, max_new_tokens: 128, embedder: sentence-transformers/all-mpnet-base-v2}}
  # samples: how many windows; more of them make the error bars smaller and every trial longer.
  perplexity: {{dataset: Salesforce/wikitext, name: wikitext-2-raw-v1, split: test, sequence_length: 512, samples: 64}}

# What the search improves; the front shows the trade between them.
objectives: {{kl_divergence: minimize, footprint: minimize}}

# Limits that every model on the front keeps. Sizes need a unit, percentages a %.
# constraints: {{perplexity_increase: "<= 5%", footprint: "<= 1.2 GB"}}

# Samplers: tpe, nsga2, gp, random, grid. A timeout such as 2h ends a run early; trials count over all runs.
study: {{trials: 64, timeout: null, sampler: tpe, seed: 0, workers: 1}}

# Scores come from exact arithmetic, so that they tell the error of the weights alone.
runtime:
  device: CPU
  ov_config: {{INFERENCE_PRECISION_HINT: f32, KV_CACHE_PRECISION: f32, DYNAMIC_QUANTIZATION_GROUP_SIZE: 0}}

# null: the folder that AUTOTUNE_CACHE names, or else the user's cache folder.
cache: {{directory: null, limit: 20GB}}

# Whether code that comes with a hub model may run on this machine; some models need it.
trust_remote_code: false
"""


def starter_yaml(model: str) -> str:
    """A model.yaml for `model`, with every section, its default and what it is for.

    Args:
        model: a Hugging Face id or a folder, as it should stand in the file (a folder relative to the file's own).
    """
    return TEMPLATE.format(model=yaml_line("model", model), output=yaml_line("output", f"reports/{slug(model)}"))
