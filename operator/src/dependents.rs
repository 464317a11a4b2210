//! Which resources name a ModelTraining: its models, and its end, matter to them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::labels::Owner;

/// Who names which ModelTraining. Found without a look at every resource, which each change of each training would take.
#[derive(Debug, Default)]
pub struct Dependents(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    of: HashMap<Owner, Owner>,
    by: HashMap<Owner, BTreeSet<Owner>>,
}

impl Dependents {
    /// Takes down which ModelTraining a resource names now, if any.
    pub fn note(&self, dependent: Owner, named: Option<Owner>) {
        let Names { of, by } = &mut *self.names();
        if of.get(&dependent) == named.as_ref() {
            return;
        }
        let before = match &named {
            Some(named) => of.insert(dependent.clone(), named.clone()),
            None => of.remove(&dependent),
        };
        if let Some(before) = before
            && let Some(others) = by.get_mut(&before)
        {
            others.remove(&dependent);
            if others.is_empty() {
                by.remove(&before);
            }
        }
        if let Some(named) = named {
            by.entry(named).or_default().insert(dependent);
        }
    }

    /// Who names a ModelTraining.
    pub fn of(&self, training: &Owner) -> Vec<Owner> {
        self.names().by.get(training).into_iter().flatten().cloned().collect()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(name: &str) -> Owner {
        Owner::training("team", name)
    }

    #[test]
    fn a_resource_depends_on_the_training_that_it_named_last() {
        let dependents = Dependents::default();
        let served = Owner::deployment("team", "digits");
        dependents.note(served.clone(), Some(training("a")));
        dependents.note(training("tuned"), Some(training("a")));
        assert_eq!(dependents.of(&training("a")), [training("tuned"), served.clone()]);
        dependents.note(served.clone(), Some(training("b")));
        dependents.note(served.clone(), Some(training("b")));
        assert_eq!(dependents.of(&training("a")), [training("tuned")]);
        assert_eq!(dependents.of(&training("b")), std::slice::from_ref(&served));
        assert_eq!(dependents.of(&Owner::training("other", "b")), []);
        dependents.note(served, None);
        assert_eq!(dependents.of(&training("b")), []);
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_names() {
        let dependents = Dependents::default();
        dependents.note(training("tuned"), Some(training("a")));
        dependents.note(training("tuned"), None);
        dependents.note(training("other"), None);
        let Names { of, by } = &*dependents.names();
        assert!(of.is_empty() && by.is_empty());
    }
}
