//! From a request's body to a batch of raw columns.

use std::sync::Arc;

use datafusion::arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, StringArray, new_null_array},
    buffer::NullBuffer,
    record_batch::RecordBatch,
};

use super::{
    error::{InvalidRequest, Names, Shortened},
    request::{InputTensor, RequestedOutput, parse},
    signature::{Datatype, Signature, arrow_type},
    values::{Column, JsonType, Values},
};
use crate::data::Kind;

/// What a request asks for.
#[derive(Debug)]
pub(in crate::server) struct Inference {
    /// Given back with the answer.
    pub(in crate::server) id: Option<String>,
    /// The raw feature columns, in the order of the model's inputs.
    pub(in crate::server) rows: RecordBatch,
    /// Positions of the wanted outputs, in the wanted order.
    pub(in crate::server) outputs: Vec<usize>,
}

impl Signature {
    /// Reads a request for this model of at most so many rows.
    ///
    /// # Errors
    /// If the body is no request, or one that the model cannot answer.
    pub(in crate::server) fn decode(&self, body: &[u8], most_rows: usize) -> Result<Inference, InvalidRequest> {
        let request = parse(body).map_err(InvalidRequest::Json)?;
        let outputs = self.wanted_outputs(&request.outputs)?;
        let mut tensors = self.in_order(request.inputs)?;
        let rows = self.check_rows(&tensors, most_rows)?;
        for tensor in &tensors {
            check_values(tensor)?;
        }
        let columns = tensors.drain(..).zip(&self.inputs).map(|(tensor, input)| array(tensor.data, input.kind));
        #[expect(clippy::expect_used, reason = "each column was made for its field, and their lengths were compared")]
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()).expect("columns fit the schema");
        debug_assert_eq!(batch.num_rows(), rows);
        Ok(Inference { id: request.id, rows: batch, outputs })
    }

    /// Positions of the outputs that are asked for; all of them if none is named.
    fn wanted_outputs(&self, requested: &[RequestedOutput<'_>]) -> Result<Vec<usize>, InvalidRequest> {
        if requested.is_empty() {
            return Ok((0..self.outputs.len()).collect());
        }
        let mut wanted = Vec::with_capacity(requested.len().min(self.outputs.len()));
        for RequestedOutput { name } in requested {
            let position = self.outputs.iter().position(|output| output == name).ok_or_else(|| {
                let expected = Names::new(self.outputs.iter().map(String::as_str));
                InvalidRequest::UnknownOutput { name: Shortened::new(name), expected }
            })?;
            if wanted.contains(&position) {
                return Err(InvalidRequest::DuplicateOutput(Shortened::new(name)));
            }
            wanted.push(position);
        }
        Ok(wanted)
    }

    /// The tensors in the order of the model's inputs: each one once.
    fn in_order<'a>(&self, inputs: Vec<InputTensor<'a>>) -> Result<Vec<InputTensor<'a>>, InvalidRequest> {
        let mut ordered: Vec<Option<InputTensor<'a>>> = Vec::new();
        ordered.resize_with(self.inputs.len(), || None);
        for tensor in inputs {
            let position = *self.positions.get(&*tensor.name).ok_or_else(|| {
                let expected = Names::new(self.inputs.iter().map(|input| input.name.as_str()));
                InvalidRequest::UnknownInput { name: Shortened::new(&tensor.name), expected }
            })?;
            if ordered[position].is_some() {
                return Err(InvalidRequest::DuplicateInput(Shortened::new(&tensor.name)));
            }
            ordered[position] = Some(tensor);
        }
        if ordered.iter().any(Option::is_none) {
            let missing = self.inputs.iter().zip(&ordered).filter(|(_, tensor)| tensor.is_none());
            let missing: Vec<_> = missing.map(|(input, _)| input.name.as_str()).collect();
            return Err(InvalidRequest::MissingInputs(Names::new(missing.into_iter())));
        }
        Ok(ordered.into_iter().flatten().collect())
    }

    /// How many rows there are: as many in each tensor.
    fn check_rows(&self, tensors: &[InputTensor<'_>], most: usize) -> Result<usize, InvalidRequest> {
        let mut first: Option<(&str, usize)> = None;
        for (tensor, input) in tensors.iter().zip(&self.inputs) {
            let expected = Datatype::of(input.kind);
            if tensor.datatype.kind() != input.kind {
                return Err(InvalidRequest::Datatype { input: input.name.clone(), found: tensor.datatype, expected });
            }
            let rows = rows_of(tensor)?;
            match first {
                None => first = Some((&input.name, rows)),
                Some((_, first_rows)) if first_rows == rows => {}
                Some((other, other_rows)) => {
                    let (input, other) = (input.name.clone(), other.to_owned());
                    return Err(InvalidRequest::Rows { input, rows, other, other_rows });
                }
            }
        }
        match first {
            None | Some((_, 0)) => Err(InvalidRequest::NoRows),
            Some((_, rows)) if rows > most => Err(InvalidRequest::TooManyRows { rows, most }),
            Some((_, rows)) => Ok(rows),
        }
    }
}

/// The rows of one tensor, as its shape says and its data holds.
fn rows_of(tensor: &InputTensor<'_>) -> Result<usize, InvalidRequest> {
    let (input, shape) = (|| tensor.name.to_string(), || Shortened::shape(&tensor.shape));
    let (rows, may_nest) = match tensor.shape[..] {
        [rows] => (rows, false),
        [rows, 1] => (rows, true),
        _ => return Err(InvalidRequest::Shape { input: input(), shape: shape() }),
    };
    let Values { nested, ragged, misfit, .. } = &tensor.data;
    let badly_nested = ragged.or_else(|| (*nested > 0 && !may_nest).then_some(0));
    if let Some(row) = badly_nested {
        return Err(InvalidRequest::Nesting { input: input(), row, shape: shape() });
    }
    // After a value of another type nothing was kept: the type is what is to be complained about.
    if misfit.is_none() && u64::try_from(tensor.data.len()) != Ok(rows) {
        return Err(InvalidRequest::Length { input: input(), shape: shape(), values: tensor.data.len() });
    }
    if misfit.is_none() && *nested > 0 && *nested != tensor.data.len() {
        return Err(InvalidRequest::Nesting { input: input(), row: 0, shape: shape() });
    }
    usize::try_from(rows).map_err(|_| InvalidRequest::Shape { input: input(), shape: shape() })
}

/// Whether the values are of the datatype that the tensor says.
fn check_values(tensor: &InputTensor<'_>) -> Result<(), InvalidRequest> {
    let datatype = tensor.datatype;
    let needed = match datatype.kind() {
        Kind::Number => JsonType::Number,
        Kind::Text => JsonType::Text,
        Kind::Boolean => JsonType::Boolean,
    };
    if let Some((row, found)) = tensor.data.first_other_than(needed) {
        return Err(InvalidRequest::Value { input: tensor.name.to_string(), row, found, datatype, needed });
    }
    match tensor.data.fraction {
        Some(row) if datatype.is_integer() => {
            Err(InvalidRequest::Fraction { input: tensor.name.to_string(), row, datatype })
        }
        _ => Ok(()),
    }
}

fn array(values: Values<'_>, kind: Kind) -> ArrayRef {
    let length = values.len();
    let valid = (!values.nulls.is_empty()).then(|| {
        let mut valid = vec![true; length];
        values.nulls.iter().for_each(|row| valid[*row] = false);
        NullBuffer::from(valid)
    });
    match values.column {
        Column::Nulls(_) => new_null_array(&arrow_type(kind), length),
        Column::Numbers(numbers) => Arc::new(Float64Array::new(numbers.into(), valid)),
        Column::Booleans(booleans) => Arc::new(BooleanArray::new(booleans.into(), valid)),
        Column::Text(texts) => {
            let is_valid = |row| valid.as_ref().is_none_or(|valid| valid.is_valid(row));
            let texts = texts.iter().enumerate().map(|(row, text)| is_valid(row).then_some(&**text));
            Arc::new(texts.collect::<StringArray>())
        }
    }
}
