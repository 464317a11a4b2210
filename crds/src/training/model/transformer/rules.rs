//! The rules between the fields of a [`Transformer`](super::Transformer) as the API server checks them, by CEL.
//!
//! What is not set is that of the preset, so the rules hold the presets' numbers. [`resolve`](super::Transformer::resolve) checks
//! the same in Rust, with the numbers in its messages.

use serde_json::{Value, json};

use crate::training::model::preset::{Preset, Shape};

/// What is said where heads would be of different sizes.
pub(super) const WIDTH: &str = "width must be a multiple of heads";
/// What is said where heads would not share keys and values evenly.
pub(super) const HEADS: &str = "heads must be a multiple of keyValueHeads";
/// What is said where a head has a number that could not be rotated with another one.
pub(super) const ROTARY: &str = "width / heads must be even for the positions Rotary";
/// What is said where there is nothing to rotate.
pub(super) const LEARNED: &str =
    "ropeTheta and ropeScaling are for the positions Rotary: set positions: Rotary, or remove them";
/// What is said where no frequencies lie between two bounds.
pub(super) const FREQUENCIES: &str = "lowFrequencyFactor must be less than highFrequencyFactor";

/// The rules of a transformer.
pub(super) fn of_transformer() -> Vec<Value> {
    let width = set_or_default("width", |shape| json!(shape.width));
    let heads = set_or_default("heads", |shape| json!(shape.heads));
    // 0 where there are as many as heads, which needs no look. Of 0 in a field the bounds say what is wrong.
    let shared = set_or_default("keyValueHeads", |shape| json!(shape.key_value_heads.unwrap_or(0)));
    let is_rotary = format!("{} == 'Rotary'", set_or_default("positions", |shape| json!(shape.positions)));
    [
        (format!("{heads} < 1 || {width} % {heads} == 0"), WIDTH),
        (format!("{shared} < 1 || {heads} % {shared} == 0"), HEADS),
        (format!("!({is_rotary}) || {heads} < 1 || ({width} / {heads}) % 2 == 0"), ROTARY),
        (format!("{is_rotary} || !(has(self.ropeTheta) || has(self.ropeScaling))"), LEARNED),
    ]
    .map(|(rule, message)| json!({"rule": rule, "message": message}))
    .to_vec()
}

/// The rule of a scaling of rotary positions.
pub(super) fn of_rope_scaling() -> Value {
    json!({"rule": "self.lowFrequencyFactor < self.highFrequencyFactor", "message": FREQUENCIES})
}

/// An expression: what a field is set to, else what it is of the preset, or without one.
fn set_or_default(field: &str, of: impl Fn(&Shape) -> Value) -> String {
    let presets: Vec<String> =
        Preset::ALL.iter().map(|preset| format!("{}: {}", json!(preset), of(&preset.shape()))).collect();
    format!(
        "(has(self.{field}) ? self.{field} : has(self.preset) ? {{{}}}[self.preset] : {})",
        presets.join(", "),
        of(&Shape::default())
    )
}
