//! [`Plans`]: the plans in use in this process, by hash. Equal projects share one, and a
//! plan is read and parsed once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::{
    plan::Plan,
    store::{Store, StoreError, StoreErrorKind},
};

/// The plans in use. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans(Arc<Mutex<HashMap<[u8; 32], Weak<Plan>>>>);

impl Plans {
    /// Keeps a plan as long as somebody uses it.
    pub(crate) fn insert(&self, plan: &Arc<Plan>) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|_, plan| plan.strong_count() > 0);
        plans.insert(plan.hash(), Arc::downgrade(plan));
    }

    fn find(&self, hash: &[u8; 32]) -> Option<Arc<Plan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(hash)?.upgrade()
    }

    /// Finds a plan here, or reads it. A large one is parsed beside the runtime, and a
    /// panic there is damage, not the end of the process.
    pub(crate) async fn get(
        &self,
        store: &Store,
        hash: [u8; 32],
    ) -> Result<Arc<Plan>, StoreError> {
        if let Some(plan) = self.find(&hash) {
            return Ok(plan);
        }
        let bytes = store.plan(hash).await?.ok_or_else(|| damaged("it is gone"))?;
        let plan = tokio::task::spawn_blocking(move || Plan::from_bytes(&bytes))
            .await
            .map_err(damaged)?
            .map_err(damaged)?;
        let plan = Arc::new(plan);
        self.insert(&plan);
        Ok(plan)
    }
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, format!("the plan: {what}"))
}
