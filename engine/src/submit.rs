//! Submitting: from a compiled project to its rows, and to the worker of this process, which
//! owns it from its birth.

use std::sync::Arc;

use crate::{
    Engine, Error, Project, ProjectHandle, ProjectId,
    plan::Plan,
    spec::Compiled,
    store::{NewProject, StoreError, StoreErrorKind, Submitted},
};

impl Engine {
    /// Records a project. When this returns it is on disk; an executing engine starts it.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`], or the database's.
    pub async fn submit(&self, project: Project) -> Result<ProjectHandle, Error> {
        self.submit_compiled(self.compile(&project)?).await
    }

    /// Records a compiled project.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::Refused`], or the database's.
    pub async fn submit_compiled(
        &self,
        compiled: Compiled,
    ) -> Result<ProjectHandle, Error> {
        if self.inner().worker.is_some() && !self.inner().spreads {
            self.check_allowed(&compiled.plan)?;
        }
        let inputs = serde_json::to_vec(&compiled.inputs).unwrap_or_default();
        let fingerprint = compiled.fingerprint(&inputs);
        // Held until it is adopted, so that it need not be read and parsed again.
        let plan = Arc::new(compiled.plan);
        self.inner().plans.insert(&plan);
        let id = match &compiled.idempotency_key {
            Some(key) => ProjectId::from_key(key),
            None => ProjectId::fresh(),
        };
        // Only what finds free slots here soon; the rest waits, for this worker or others.
        let worker = self.inner().worker.as_ref();
        let own = worker.filter(|worker| worker.has_room());
        let project = Arc::new(NewProject {
            id,
            name: compiled.name,
            plan_hash: plan.hash(),
            plan: Arc::clone(plan.bytes()),
            steps: plan.len(),
            priority: compiled.priority,
            inputs: inputs.into(),
            labels: compiled.labels,
            fingerprint,
            created_at: self.inner().clock.now(),
            // Nobody else takes it before this engine does.
            owner: own.map(|worker| *worker.session.borrow()),
            kinds: plan.kinds().into_iter().map(str::to_owned).collect(),
            author: compiled.author,
        });
        let (engine, keyed) = (self.clone(), compiled.idempotency_key.is_some());
        // A caller that goes away must not leave it recorded as ours and in nobody's hands.
        let record = async move { engine.record(project, plan, keyed).await };
        let recorded = tokio::spawn(record).await;
        recorded.unwrap_or_else(|panic| {
            Err(StoreError::new(StoreErrorKind::Other, panic).into())
        })
    }

    async fn record(
        self,
        project: Arc<NewProject>,
        plan: Arc<Plan>,
        keyed: bool,
    ) -> Result<ProjectHandle, Error> {
        let (id, worker) = (project.id, self.inner().worker.as_ref());
        let own = worker.filter(|_| project.owner.is_some());
        let ending = own.map(|worker| worker.ends.of(id));
        let submitted = self.inner().store.submit(Arc::clone(&project)).await;
        if let (Err(error), Some(worker)) = (&submitted, own)
            && error.is_transient()
        {
            // It may be recorded, and owned from birth: then it is executed, although
            // nobody was told.
            worker.adopt_later(id);
        }
        match (submitted?, own, worker) {
            (Submitted::Conflict, ..) => return Err(Error::Conflict(id)),
            // Under a key somebody else may have taken, run and ended it already.
            (Submitted::Born, Some(worker), _) if !keyed => {
                worker.born(&project, plan);
                return Ok(self.project(id).told(ending));
            }
            (_, Some(worker), _) => {
                if let Err(error) = worker.adopt(id).await {
                    // It is recorded, and the next process starts it: this one may be
                    // stopping.
                    tracing::warn!(project = %id, %error, "recorded, and not started here");
                }
            }
            (_, None, Some(worker)) => worker.look(),
            (_, None, None) => {}
        }
        Ok(self.project(id))
    }
}
