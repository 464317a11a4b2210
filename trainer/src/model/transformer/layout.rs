//! Where the parameters lie in a file: by the names and in the shapes of Hugging Face's transformers.

use stoker_crds::training::model::{Normalization, PositionEncoding, TransformerActivation, TransformerConfig};

use super::padded;

/// The architectures of Hugging Face's transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Learned positions, LayerNorm, GELU, biases, and keys and values for every head.
    Gpt2,
    /// Rotary positions, RMSNorm and SwiGLU.
    Llama,
    /// None of both. It is written by Llama's names, with more of them where it has more.
    Other,
}

impl Family {
    pub(super) fn of(config: &TransformerConfig) -> Self {
        let is_learned = config.positions == PositionEncoding::Learned;
        let shares_keys = config.key_value_heads != config.heads;
        match (is_learned, config.normalization, config.activation) {
            (true, Normalization::LayerNorm, TransformerActivation::GELU) if config.bias && !shares_keys => Self::Gpt2,
            (false, Normalization::RMSNorm, TransformerActivation::SwiGLU) => Self::Llama,
            _ => Self::Other,
        }
    }

    /// What the names begin with in a file of the whole model. In one without the matrix that predicts tokens they begin
    /// with nothing.
    pub(super) fn prefix(self) -> &'static str {
        self.names().prefix
    }

    /// The name of the matrix that reads tokens.
    pub(super) fn tokens(self, prefix: &str) -> String {
        format!("{prefix}{}.weight", self.names().tokens)
    }

    /// Whether a tensor is no parameter, but a constant that some versions of transformers wrote too.
    pub(super) fn is_constant(self, name: &str) -> bool {
        let endings: &[&str] = match self {
            Self::Gpt2 => &[".attn.bias", ".attn.masked_bias"],
            Self::Llama => &[".self_attn.rotary_emb.inv_freq"],
            Self::Other => &[],
        };
        endings.iter().any(|ending| name.ends_with(ending))
    }

    fn names(self) -> &'static Names {
        match self {
            Self::Gpt2 => &GPT2,
            Self::Llama | Self::Other => &LLAMA,
        }
    }
}

/// The name of the matrix that predicts tokens, where it is one of its own.
pub(super) const HEAD: &str = "lm_head.weight";

struct Names {
    prefix: &'static str,
    tokens: &'static str,
    positions: &'static str,
    block: &'static str,
    attention_norm: &'static str,
    /// Of queries, keys and values: one name for all three or one for each.
    input: &'static [&'static str],
    output: &'static str,
    feed_forward_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
    /// Whether linear layers are `[output, input]`, as PyTorch's `nn.Linear`, instead of `[input, output]`.
    transposed: bool,
}

/// `GPT2LMHeadModel`, whose linear layers are of the class `Conv1D`.
const GPT2: Names = Names {
    prefix: "transformer.",
    tokens: "wte",
    positions: "wpe",
    block: "h",
    attention_norm: "ln_1",
    input: &["attn.c_attn"],
    output: "attn.c_proj",
    feed_forward_norm: "ln_2",
    gate: "mlp.c_gate",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    norm: "ln_f",
    transposed: false,
};

/// `LlamaForCausalLM`.
const LLAMA: Names = Names {
    prefix: "model.",
    tokens: "embed_tokens",
    positions: "embed_positions",
    block: "layers",
    attention_norm: "input_layernorm",
    input: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    output: "self_attn.o_proj",
    feed_forward_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    norm: "norm",
    transposed: true,
};

/// Where one parameter lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The parameter's shape: `[columns]` or `[rows, columns]`.
    pub(super) shape: Vec<usize>,
    /// How many rows are in the file: of fewer than it has, the others are padding; of more, the first are taken. Without
    /// meaning for a vector.
    pub(super) rows: usize,
    /// Whether it is the weights of a linear layer of a block, or of several.
    pub(super) is_linear: bool,
    /// Whether rows and columns are exchanged in the file.
    pub(super) transposed: bool,
    /// The tensors that it consists of, one beside the other.
    pub(super) pieces: Vec<Piece>,
}

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: String,
    /// Columns of the parameter that it holds.
    pub(super) columns: usize,
}

impl Stored {
    /// The shape of one of its tensors in the file.
    pub(super) fn file_shape(&self, piece: &Piece) -> Vec<usize> {
        match (self.shape.len(), self.transposed) {
            (1, _) => vec![piece.columns],
            (_, false) => vec![self.rows, piece.columns],
            (_, true) => vec![piece.columns, self.rows],
        }
    }

    fn vector(name: String, width: usize) -> Self {
        let pieces = vec![Piece { name, columns: width }];
        Self { shape: vec![width], rows: 1, is_linear: false, transposed: false, pieces }
    }

    fn embedding(name: String, rows: usize, padded: usize, width: usize) -> Self {
        let pieces = vec![Piece { name, columns: width }];
        Self { shape: vec![padded, width], rows, is_linear: false, transposed: false, pieces }
    }
}

/// All parameters as they are written, by the names of the whole model.
pub(super) fn layout_of(config: &TransformerConfig, vocabulary: usize) -> Vec<Stored> {
    layout(config, config.context, vocabulary, Family::of(config).prefix())
}

/// All parameters, in the order in which the module visits them. Names begin with `prefix`, and the file is of a model that
/// reads `stored_context` tokens.
pub(super) fn layout(config: &TransformerConfig, stored_context: u32, vocabulary: usize, prefix: &str) -> Vec<Stored> {
    let names = Family::of(config).names();
    let writer = Writer { config, transposed: names.transposed };
    let (width, units, context) = (config.width as usize, config.feed_forward as usize, config.context as usize);
    let shared = (config.key_value_heads * config.head_size()) as usize;
    let inputs: Vec<(&str, usize)> = match names.input {
        [all] => vec![(*all, width + 2 * shared)],
        each => each.iter().copied().zip([width, shared, shared]).collect(),
    };
    let has_gate = config.activation == TransformerActivation::SwiGLU;

    let vocabulary_matrix = |name: String| Stored::embedding(name, vocabulary, padded(vocabulary), width);
    let mut stored = vec![vocabulary_matrix(format!("{prefix}{}.weight", names.tokens))];
    if config.positions == PositionEncoding::Learned {
        let name = format!("{prefix}{}.weight", names.positions);
        stored.push(Stored::embedding(name, stored_context as usize, context, width));
    }
    for block in 0..config.layers {
        let prefix = format!("{prefix}{}.{block}.", names.block);
        stored.extend(writer.norm(&prefix, names.attention_norm));
        stored.extend(writer.linear(&prefix, width, &inputs));
        stored.extend(writer.linear(&prefix, width, &[(names.output, width)]));
        stored.extend(writer.norm(&prefix, names.feed_forward_norm));
        if has_gate {
            stored.extend(writer.linear(&prefix, width, &[(names.gate, units)]));
        }
        stored.extend(writer.linear(&prefix, width, &[(names.up, units)]));
        stored.extend(writer.linear(&prefix, units, &[(names.down, width)]));
    }
    stored.extend(writer.norm(prefix, names.norm));
    if !config.tied_embeddings {
        stored.push(vocabulary_matrix(HEAD.to_owned()));
    }
    stored
}

struct Writer<'a> {
    config: &'a TransformerConfig,
    transposed: bool,
}

impl Writer<'_> {
    fn norm(&self, prefix: &str, name: &str) -> impl Iterator<Item = Stored> + use<> {
        let width = self.config.width as usize;
        let has_bias = self.config.bias && self.config.normalization == Normalization::LayerNorm;
        let gain = Stored::vector(format!("{prefix}{name}.weight"), width);
        let bias = has_bias.then(|| Stored::vector(format!("{prefix}{name}.bias"), width));
        std::iter::once(gain).chain(bias)
    }

    /// A layer of so many inputs; its outputs are one beside the other.
    fn linear(&self, prefix: &str, input: usize, outputs: &[(&str, usize)]) -> impl Iterator<Item = Stored> + use<> {
        let pieces = |kind: &str| {
            let piece =
                |(name, columns): &(&str, usize)| Piece { name: format!("{prefix}{name}.{kind}"), columns: *columns };
            outputs.iter().map(piece).collect::<Vec<_>>()
        };
        let width: usize = outputs.iter().map(|(_, columns)| columns).sum();
        let weight = Stored {
            shape: vec![input, width],
            rows: input,
            is_linear: true,
            transposed: self.transposed,
            pieces: pieces("weight"),
        };
        let bias = self.config.bias.then(|| Stored {
            shape: vec![width],
            rows: 1,
            is_linear: false,
            transposed: false,
            pieces: pieces("bias"),
        });
        std::iter::once(weight).chain(bias)
    }
}
