//! Makes the cluster hold what was built, with as few requests as that takes: none for what is so already.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::{apps::v1::Deployment, policy::v1::PodDisruptionBudget};
use kube::ResourceExt;
use serde_json::json;

use super::{
    build::Objects,
    memory::Freshness,
    rollout::{Revision, Step, Target, next_step},
    validate::Validated,
};
use crate::{
    Context, Result,
    apply::{self, Object},
    labels::{DIGEST_ANNOTATION, Owner},
    lean,
    workloads::{Child, ChildView, WorkloadView},
};

/// One ModelDeployment, and what its objects are written with.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    /// What every reconcile works with.
    pub(crate) context: &'a Context,
    /// The ModelDeployment.
    pub(crate) owner: &'a Owner,
    /// Its UID.
    pub(crate) uid: &'a str,
    /// Its namespace.
    pub(crate) namespace: &'a str,
}

impl Writer<'_> {
    /// Applies everything, and takes the next step of the rollout.
    ///
    /// # Errors
    /// If the API server refuses an object, or one of its name belongs to somebody else.
    pub(crate) async fn apply(
        &self,
        wanted: &Validated,
        objects: &Objects,
        workloads: &[Arc<WorkloadView>],
    ) -> Result<()> {
        let Objects { service, policy, budget, workload } = objects;
        self.settle(policy).await?;
        self.settle(service).await?;
        match budget {
            Some(budget) => self.settle(budget).await?,
            None => self.remove_budget(&wanted.name).await?,
        }
        let name = workload.name_any();
        let new = workloads.iter().find(|workload| workload.name == name);
        let old: Vec<Revision> =
            workloads.iter().filter(|old| old.name != name).map(|old| old.as_ref().into()).collect();
        let Step { new: replicas, old } =
            next_step(wanted.replicas, new.map(|new| Revision::from(new.as_ref())).as_ref(), &old);
        self.settle_workload(workload, replicas, new.map(Arc::as_ref)).await?;
        self.step_old(old, workloads).await
    }

    /// Lets what serves go on, with as many pods as are wanted now, while it cannot be said what should replace it.
    ///
    /// # Errors
    /// If the API server refuses a change.
    pub(crate) async fn keep_serving(&self, replicas: u32, workloads: &[Arc<WorkloadView>]) -> Result<()> {
        let revisions: Vec<Revision> = workloads.iter().map(|workload| workload.as_ref().into()).collect();
        self.step_old(next_step(replicas, None, &revisions).old, workloads).await
    }

    async fn step_old(&self, steps: Vec<(String, Target)>, workloads: &[Arc<WorkloadView>]) -> Result<()> {
        for (name, target) in steps {
            let Some(seen) = workloads.iter().find(|workload| workload.name == name) else { continue };
            match target {
                Target::Scale(replicas) => self.scale(seen, replicas).await?,
                Target::Delete => self.delete_workload(&name).await?,
            }
        }
        Ok(())
    }

    /// Makes the wanted revision's Deployment what it should be.
    async fn settle_workload(&self, workload: &Deployment, replicas: u32, seen: Option<&WorkloadView>) -> Result<()> {
        let sized = || {
            let mut workload = workload.clone();
            workload.spec.get_or_insert_default().replicas = i32::try_from(replicas).ok();
            workload
        };
        let written: lean::Deployment = match seen {
            None => apply::create(self.context, &sized()).await?,
            Some(seen) => match self.freshness::<Deployment>(&seen.name, &seen.state) {
                Freshness::Current => return self.scale(seen, replicas).await,
                Freshness::Behind => return Ok(()),
                Freshness::Changed => apply::apply(self.context, &sized()).await?,
            },
        };
        self.wrote_workload(written);
        Ok(())
    }

    /// Changes nothing but the number of pods: the rest of an older revision is not known any more, and that of the
    /// wanted one is as it should be.
    async fn scale(&self, seen: &WorkloadView, replicas: u32) -> Result<()> {
        let is_behind = self.freshness::<Deployment>(&seen.name, &seen.state) == Freshness::Behind;
        if seen.replicas == replicas || is_behind {
            return Ok(());
        }
        let fields = json!({ "spec": { "replicas": replicas } });
        self.wrote_workload(apply::patch(self.context, self.namespace, &seen.name, &fields).await?);
        Ok(())
    }

    async fn delete_workload(&self, name: &str) -> Result<()> {
        apply::delete::<lean::Deployment>(self.context, self.namespace, name).await?;
        self.context.workloads.remove(self.owner, name);
        self.context.memories.with(self.uid, |memory| memory.deleted(&key::<Deployment>(name)));
        Ok(())
    }

    fn wrote_workload(&self, workload: lean::Deployment) {
        let view = WorkloadView::from(workload);
        self.remember::<Deployment>(&view.name, &view.state);
        self.context.workloads.insert(self.owner.clone(), view.name.clone(), view);
    }

    /// Makes an object what it should be, unless it is so already.
    async fn settle<K: Object + Child + Clone + Debug>(&self, object: &K) -> Result<()> {
        let name = object.name_any();
        let views = K::views(&self.context.children);
        let wanted = object.annotations().get(DIGEST_ANNOTATION).map(String::as_str);
        let is_wanted = |view: &ChildView| Some(view.digest.as_str()) == wanted;
        let mut view = match views.get(self.owner, &name) {
            Some(seen) => match self.freshness::<K>(&name, &seen) {
                Freshness::Current if is_wanted(&seen) => return Ok(()),
                Freshness::Behind => return Ok(()),
                Freshness::Current | Freshness::Changed => self.applied(object).await?,
            },
            // Unlike an apply, it fails if somebody else has an object of that name.
            None => ChildView::of(&apply::create::<lean::Meta<K>, _>(self.context, object).await?),
        };
        if !is_wanted(&view) {
            view = self.applied(object).await?;
        }
        self.remember::<K>(&name, &view);
        views.insert(self.owner.clone(), name, view);
        Ok(())
    }

    async fn applied<K: Object + Clone + Debug>(&self, object: &K) -> Result<ChildView> {
        Ok(ChildView::of(&apply::apply::<lean::Meta<K>>(self.context, object).await?))
    }

    async fn remove_budget(&self, name: &str) -> Result<()> {
        let views = &self.context.children.budgets;
        if views.get(self.owner, name).is_none() {
            return Ok(());
        }
        apply::delete::<PodDisruptionBudget>(self.context, self.namespace, name).await?;
        views.remove(self.owner, name);
        self.context.memories.with(self.uid, |memory| memory.deleted(&key::<PodDisruptionBudget>(name)));
        Ok(())
    }

    fn freshness<K: Object>(&self, name: &str, seen: &ChildView) -> Freshness {
        self.context.memories.with(self.uid, |memory| memory.freshness(&key::<K>(name), seen))
    }

    fn remember<K: Object>(&self, name: &str, view: &ChildView) {
        self.context.memories.with(self.uid, |memory| memory.wrote(key::<K>(name), view));
    }
}

fn key<K: Object>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}

impl From<&WorkloadView> for Revision {
    fn from(view: &WorkloadView) -> Self {
        let WorkloadView { name, replicas, pods, ready, has_served, .. } = view.clone();
        Self { name, replicas, pods, ready, has_served }
    }
}
