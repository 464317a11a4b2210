//! Partitions of a table that DataFusion reads from us.

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};

type Open = dyn Fn(Arc<TaskContext>) -> Result<SendableRecordBatchStream, DataFusionError> + Send + Sync;

/// One partition of a table: a stream that a function opens.
pub(crate) struct Partition {
    schema: SchemaRef,
    open: Box<Open>,
}

impl Partition {
    pub(super) fn opened_by<S>(
        schema: SchemaRef,
        open: impl Fn(Arc<TaskContext>) -> Result<S, DataFusionError> + Send + Sync + 'static,
    ) -> Arc<dyn PartitionStream>
    where
        S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    {
        let of = Arc::clone(&schema);
        let open = move |task| {
            let stream = open(task)?;
            Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&of), stream)) as SendableRecordBatchStream)
        };
        Arc::new(Self { schema, open: Box::new(open) })
    }
}

impl Partition {
    /// The rows of some files, one after another, each read by a function.
    pub(crate) fn of_files<F, S>(
        schema: SchemaRef,
        files: impl Iterator<Item = usize> + Clone + Send + Sync + 'static,
        read: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
    ) -> Arc<dyn PartitionStream>
    where
        F: Future<Output = Result<S, DataFusionError>> + Send + 'static,
        S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    {
        Self::opened_by(schema, move |_| Ok(stream::iter(files.clone()).then(read.clone()).try_flatten()))
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, task: Arc<TaskContext>) -> SendableRecordBatchStream {
        (self.open)(task).unwrap_or_else(|error| {
            let failed = futures::stream::once(std::future::ready(Err(error)));
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), failed))
        })
    }
}
