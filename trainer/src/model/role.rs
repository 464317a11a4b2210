//! What each parameter of a model is for: an optimizer may treat matrices of hidden layers unlike embeddings and biases.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Tensor,
};

use super::Network;

/// What a parameter is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A matrix of a hidden layer, `[inputs, outputs]`. It may hold several linear maps beside each other, such as those to
    /// queries, keys and values: the outputs of each.
    Hidden {
        /// They add up to the matrix's columns.
        outputs: Vec<usize>,
    },
    /// A matrix with a row for each token or position.
    Embedding,
    /// The matrix of the last layer, which predicts numbers, classes or tokens.
    Head,
    /// Biases, and the gains of normalizations.
    Vector,
}

/// The shape and the role of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) shape: Vec<usize>,
    pub(crate) role: Role,
}

impl Network {
    /// All parameters, in the order in which the model is visited, without drawing any that is not there yet.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        let mut roles = Roles { model: self, path: Vec::new(), found: Vec::new() };
        self.visit(&mut roles);
        roles.found
    }

    /// The role of the parameter of that path and shape. What is attached to a matrix to adapt it lies below its path.
    fn role(&self, path: &[&str], shape: &[usize]) -> Role {
        let [_, .., columns] = shape else { return Role::Vector };
        let hidden = |outputs| Role::Hidden { outputs };
        match (self, path) {
            (Self::Mlp(mlp), ["Mlp", "layers", index, ..]) if index.parse() == Ok(mlp.layers.len() - 1) => Role::Head,
            (Self::Transformer(transformer), ["Transformer", "blocks", _, "attention", "input", "weight"]) => {
                let config = transformer.config();
                let shared = (config.key_value_heads * config.head_size()) as usize;
                hidden(vec![config.width as usize, shared, shared])
            }
            (Self::Mlp(_), _) | (_, ["Transformer", "blocks", ..]) => hidden(vec![*columns]),
            (_, ["Transformer", "head", ..]) => Role::Head,
            _ => Role::Embedding,
        }
    }
}

struct Roles<'a> {
    model: &'a Network,
    path: Vec<String>,
    found: Vec<Parameter>,
}

impl ModuleVisitor for Roles<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape().as_slice().to_vec();
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let role = self.model.role(&path, &shape);
        self.found.push(Parameter { shape, role });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::{Value, json};
    use stoker_crds::training::{
        Task,
        model::{Model, Transformer as Spec},
        optimize::Loss,
    };

    use super::*;
    use crate::model::Architecture;

    fn hidden(outputs: &[usize]) -> Role {
        Role::Hidden { outputs: outputs.to_vec() }
    }

    fn roles(architecture: &Architecture) -> Vec<Role> {
        architecture.init(1, &Device::flex()).parameters().into_iter().map(|parameter| parameter.role).collect()
    }

    fn transformer(spec: Value) -> Vec<Role> {
        let config = serde_json::from_value::<Spec>(spec).unwrap().resolve().unwrap();
        roles(&Architecture::language(config, 70).unwrap())
    }

    #[test]
    fn all_matrices_of_an_mlp_but_the_last_are_those_of_hidden_layers() {
        let mlp = |hidden: Value| {
            let model = Model::Mlp(serde_json::from_value(json!({"hidden": hidden})).unwrap());
            roles(&Architecture::new(model, Task::Regression, Loss::MSE, 3, 2).unwrap())
        };
        assert_eq!(
            mlp(json!([5, 4])),
            [hidden(&[5]), Role::Vector, hidden(&[4]), Role::Vector, Role::Head, Role::Vector]
        );
        assert_eq!(mlp(json!([])), [Role::Head, Role::Vector]);
    }

    #[test]
    fn the_matrices_of_a_transformers_blocks_are_those_of_hidden_layers() {
        let tied = json!({"layers": 1, "width": 16, "heads": 4, "context": 8});
        let vector = Role::Vector;
        assert_eq!(
            transformer(tied),
            [
                &[Role::Embedding, Role::Embedding][..],
                &[vector.clone(), vector.clone(), hidden(&[16, 16, 16]), vector.clone(), hidden(&[16]), vector.clone()],
                &[vector.clone(), vector.clone(), hidden(&[64]), vector.clone(), hidden(&[16]), vector.clone()],
                &[vector.clone(), vector],
            ]
            .concat()
        );
    }

    #[test]
    fn queries_keys_and_values_of_a_llama_are_maps_of_their_own_and_its_head_is_no_embedding() {
        let llama = json!({
            "layers": 1, "width": 16, "heads": 4, "keyValueHeads": 2, "context": 8, "feedForward": 24,
            "positions": "Rotary", "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false, "tiedEmbeddings": false,
        });
        let vector = Role::Vector;
        assert_eq!(
            transformer(llama),
            [
                &[Role::Embedding][..],
                &[vector.clone(), hidden(&[16, 8, 8]), hidden(&[16])],
                &[vector.clone(), hidden(&[24]), hidden(&[24]), hidden(&[16])],
                &[vector, Role::Head],
            ]
            .concat()
        );
    }
}
