//! Which rows are kept, and in which order: the pure part of cleaning, batch by batch.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array},
        compute::{and, filter_record_batch, is_not_null},
        datatypes::{DataType, Field, Float64Type, Schema, SchemaRef},
        record_batch::RecordBatch,
    },
    common::{DFSchema, SchemaError},
    error::DataFusionError,
    logical_expr::Expr,
    physical_plan::PhysicalExpr,
    prelude::SessionContext,
};
use sha2::{Digest, Sha256};
use stoker_crds::training::{
    Data,
    data::{ColumnType, Format},
};

use super::{
    DataError,
    columns::{self, Columns, MissingRule},
    convert,
    discover::Discovery,
};

/// The column that rows are ordered by.
pub(super) const ORDER: &str = "__stoker_order";

/// A condition that rows must meet, as it was written and as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Predicate {
    sql: String,
    expr: Expr,
}

impl Predicate {
    /// Reads the predicates of `spec.data.clean.require` against all columns of the data.
    pub(crate) fn parse(
        context: &SessionContext,
        data: &Data<Format>,
        found: &Discovery,
    ) -> Result<Vec<Self>, DataError> {
        let schema = columns::schema(columns::usable(data, found).into_iter());
        let schema = DFSchema::try_from(schema).map_err(DataError::internal)?;
        data.clean.require.iter().map(|sql| Self::parse_one(context, sql, &schema, found)).collect()
    }

    fn parse_one(context: &SessionContext, sql: &str, schema: &DFSchema, found: &Discovery) -> Result<Self, DataError> {
        let expr = context.parse_sql_expr(sql, schema).map_err(|error| match error.find_root() {
            DataFusionError::SchemaError(error, _) => match error.as_ref() {
                SchemaError::FieldNotFound { field, .. } => columns::unknown_column(&quoted(sql), &field.name, found),
                _ => invalid(sql, error),
            },
            error => invalid(sql, error),
        })?;
        let is_foreign = |expr: &Expr| {
            let of_rows = matches!(expr, Expr::AggregateFunction(_) | Expr::WindowFunction(_));
            of_rows || matches!(expr, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_))
        };
        let is_foreign = datafusion::common::tree_node::TreeNode::exists(&expr, |expr| Ok(is_foreign(expr)));
        if is_foreign.map_err(DataError::internal)? {
            return Err(invalid(sql, &"it must look at one row alone, without aggregates, windows or subqueries"));
        }
        if expr.is_volatile() {
            return Err(invalid(sql, &"it must say the same of a row each time"));
        }
        Ok(Self { sql: sql.to_owned(), expr })
    }

    /// The columns that it looks at.
    pub(crate) fn columns(&self) -> BTreeSet<String> {
        self.expr.column_refs().into_iter().map(|column| column.name.clone()).collect()
    }
}

fn quoted(sql: &str) -> String {
    format!("spec.data.clean.require, \"{sql}\",")
}

fn invalid(sql: &str, why: &dyn std::fmt::Display) -> DataError {
    DataError::InvalidConfig(format!("{} cannot be used as a condition: {why}", quoted(sql)))
}

/// Conditions that rows must meet, to be evaluated on batches.
#[derive(Debug)]
pub(crate) struct Conditions(Vec<(String, Arc<dyn PhysicalExpr>)>);

impl Conditions {
    /// The conditions for batches of a schema.
    pub(crate) fn new(
        context: &SessionContext,
        predicates: Vec<Predicate>,
        schema: SchemaRef,
    ) -> Result<Self, DataError> {
        let schema = DFSchema::try_from(schema).map_err(DataError::internal)?;
        let conditions = predicates.into_iter().map(|Predicate { sql, expr }| {
            let expr =
                context.create_physical_expr(expr, &schema).map_err(|error| invalid(&sql, &error.strip_backtrace()))?;
            match expr.data_type(schema.as_arrow()) {
                Ok(DataType::Boolean) => Ok((sql, expr)),
                Ok(other) => Err(invalid(&sql, &format!("it is of type {other}, not true or false"))),
                Err(error) => Err(invalid(&sql, &error.strip_backtrace())),
            }
        });
        Ok(Self(conditions.collect::<Result<_, _>>()?))
    }

    /// The rows that fail none of them.
    pub(crate) fn keep(&self, mut batch: RecordBatch) -> Result<RecordBatch, DataError> {
        for (sql, condition) in &self.0 {
            let failed = |error: DataFusionError| invalid(sql, &error.strip_backtrace());
            let holds =
                condition.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows())).map_err(failed)?;
            // As with a constraint of a table: what is unknown, because a value is missing, does not fail.
            let fails = holds.as_boolean().iter().map(|holds| Some(holds != Some(false)));
            batch = filter_record_batch(&batch, &fails.collect())?;
        }
        Ok(batch)
    }
}

/// What a batch came to.
#[derive(Debug)]
pub(super) struct Kept {
    /// The rows that are kept, points in time as numbers, with the column [`ORDER`].
    pub(super) batch: RecordBatch,
    /// Rows that failed a predicate.
    pub(super) require: u64,
    /// Rows without a target, or without a value that nothing fills.
    pub(super) missing: u64,
}

/// Which rows are kept, and in which order.
#[derive(Debug)]
pub(super) struct Rules {
    conditions: Conditions,
    /// Columns that must have a value.
    needed: Vec<usize>,
    /// The columns in the order of their names: that of the files' columns must not matter.
    by_name: Vec<usize>,
    seed: i64,
    pub(super) schema: SchemaRef,
}

impl Rules {
    /// The rules for batches of `columns`.
    pub(super) fn new(
        context: &SessionContext,
        predicates: Vec<Predicate>,
        columns: &Columns,
        data: &Data<Format>,
    ) -> Result<Self, DataError> {
        let dropping = columns.features.iter().filter(|feature| feature.missing == MissingRule::Drop);
        let needed: BTreeSet<&String> = dropping
            .map(|feature| &feature.name)
            .chain(columns.targets.iter().map(|target| &target.name))
            .chain(&data.split.time)
            .collect();
        let names: Vec<&String> = columns.all().map(|(name, _)| name).collect();
        let mut by_name: Vec<usize> = (0..names.len()).collect();
        by_name.sort_by_key(|index| names[*index]);
        let fields = columns.all().map(|(name, kind)| {
            let kind = if kind == ColumnType::Timestamp { ColumnType::Number } else { kind };
            Field::new(name, convert::arrow_type(kind), true)
        });
        let order = Field::new(ORDER, DataType::UInt64, false);
        Ok(Self {
            conditions: Conditions::new(context, predicates, columns.schema())?,
            needed: (0..names.len()).filter(|index| needed.contains(names[*index])).collect(),
            by_name,
            seed: data.split.seed,
            schema: Arc::new(Schema::new(fields.chain([order]).collect::<Vec<_>>())),
        })
    }

    /// Drops the rows that fail a predicate, then those that lack a needed value, and gives the others their order.
    pub(super) fn apply(&self, batch: RecordBatch) -> Result<Kept, DataError> {
        let rows = batch.num_rows();
        let mut batch = self.conditions.keep(batch)?;
        let required = batch.num_rows();
        let present = self.needed.iter().map(|index| is_not_null(batch.column(*index)));
        let present = present.reduce(|all, next| and(&all?, &next?)).transpose()?;
        if let Some(present) = present {
            batch = filter_record_batch(&batch, &present)?;
        }
        let (require, missing) = ((rows - required) as u64, (required - batch.num_rows()) as u64);
        Ok(Kept { batch: self.ordered(&batch)?, require, missing })
    }

    fn ordered(&self, batch: &RecordBatch) -> Result<RecordBatch, DataError> {
        let number = |array: &ArrayRef| match array.data_type() {
            DataType::Timestamp(..) => Arc::new(convert::seconds(array.as_primitive())),
            _ => Arc::clone(array),
        };
        let mut columns: Vec<ArrayRef> = batch.columns().iter().map(number).collect();
        let order = row_hashes(self.by_name.iter().map(|index| &columns[*index]), batch.num_rows(), self.seed);
        columns.push(Arc::new(order));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// For each row the first 64 bits of the SHA-256 over the seed and the row's values: an order that looks like chance, but
/// is the same whatever the files' order and names, and puts equal rows side by side, so into the same split.
fn row_hashes<'a>(columns: impl Iterator<Item = &'a ArrayRef>, rows: usize, seed: i64) -> UInt64Array {
    let columns: Vec<Values<'_>> = columns.map(Values::new).collect();
    let mut bytes = Vec::new();
    (0..rows)
        .map(|row| {
            bytes.clear();
            bytes.extend_from_slice(&seed.to_le_bytes());
            for column in &columns {
                column.write(row, &mut bytes);
            }
            let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&bytes));
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        })
        .collect::<Vec<_>>()
        .into()
}

/// A column's values, each as bytes that no other value of any column's type has.
enum Values<'a> {
    Numbers(&'a datafusion::arrow::array::Float64Array),
    Texts(&'a datafusion::arrow::array::StringArray),
    Booleans(&'a BooleanArray),
}

impl<'a> Values<'a> {
    fn new(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Float64 => Self::Numbers(array.as_primitive::<Float64Type>()),
            DataType::Boolean => Self::Booleans(array.as_boolean()),
            _ => Self::Texts(array.as_string()),
        }
    }

    fn write(&self, row: usize, bytes: &mut Vec<u8>) {
        let is_null = match self {
            Self::Numbers(values) => values.is_null(row),
            Self::Texts(values) => values.is_null(row),
            Self::Booleans(values) => values.is_null(row),
        };
        match self {
            _ if is_null => bytes.push(0),
            Self::Numbers(values) => {
                bytes.push(1);
                bytes.extend_from_slice(&values.value(row).to_le_bytes());
            }
            Self::Texts(values) => {
                let text = values.value(row);
                bytes.push(2);
                bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            Self::Booleans(values) => bytes.extend_from_slice(&[3, u8::from(values.value(row))]),
        }
    }
}
