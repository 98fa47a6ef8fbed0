//! The query engine over one snapshot: bounded in memory, and with nothing else within its reach.

use std::sync::Arc;

use datafusion::{
    common::{DataFusionError, Result},
    execution::{
        SessionStateBuilder, SessionStateDefaults,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::GreedyMemoryPool,
        object_store::ObjectStoreRegistry,
        runtime_env::RuntimeEnvBuilder,
    },
    object_store::ObjectStore,
    prelude::{SessionConfig, SessionContext},
};
use url::Url;

use super::{SearchError, source::Source, table::STORE};

/// What a query may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For what a query has to remember: groups, sorted rows, hash tables.
    pub memory_bytes: usize,
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { memory_bytes: 96 << 20, threads: threads.min(4) }
    }
}

/// Rows in a batch. Smaller than usual, since some rows have long texts.
const BATCH_ROWS: usize = 4_096;

/// An engine that can read this ledger and nothing else, has functions and no tables.
pub(super) fn session(ledger: &Source, limits: Limits) -> Result<SessionContext, SearchError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(limits.threads)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(true);
    let options = config.options_mut();
    // Decode the rest of a row only where the filter has let it through.
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(limits.memory_bytes)))
        // A spilled file would hold what people asked about.
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .with_object_store_registry(Arc::new(OnlyStore(ledger.store.clone())))
        .build_arc()
        .map_err(SearchError::of_engine)?;
    // No table factories and no file formats: no statement can name a file.
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .build();
    Ok(SessionContext::new_with_state(state))
}

/// Knows the ledger's place and no other.
#[derive(Debug)]
struct OnlyStore(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OnlyStore {
    /// Nothing is added to it.
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match STORE.starts_with(url.as_str().trim_end_matches('/')) {
            true => Ok(self.0.clone()),
            false => Err(DataFusionError::Execution(format!("{url} is not part of the ledger"))),
        }
    }
}
