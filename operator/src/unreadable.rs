//! Objects of ours that the types refuse, as those of a newer version after a rollback.
//!
//! One of them must not keep the others from being read. So spec and status are taken as text first: where they cannot be
//! parsed, the stores do without the object, and its status says why.

use std::sync::Arc;

use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::{
    reflector::{ObjectRef, Store},
    watcher::Event,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json, value::RawValue};
use stoker_crds::Reason;

use crate::{
    context::Context,
    lean::{Lean, ReadLean},
    status::{self, Written},
};

/// How often it is tried to write the status of an object that cannot be read.
const TRIES: u32 = 5;

/// An object of a kind of ours, as it is watched: before its spec and status are parsed.
pub type Watched<K> = Lean<K, Option<Box<RawValue>>, Option<Box<RawValue>>>;

/// What is known of an object that cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its status as it stands there; empty if it has none.
    pub status: Map<String, Value>,
    /// What of it cannot be read, and why.
    pub problem: String,
}

/// The object.
///
/// # Errors
/// If its spec or status cannot be parsed.
pub fn read<K: ReadLean>(watched: Watched<K>) -> Result<K, Box<Unreadable>> {
    let Watched { metadata, spec, status, .. } = watched;
    let [spec, status] = [&spec, &status].map(|part| part.as_deref().map_or("null", RawValue::get));
    match parsed("spec", spec).and_then(|spec| Ok((spec, parsed("status", status)?))) {
        Ok((spec, status)) => Ok(K::of(metadata, spec, status)),
        Err(problem) => {
            let status = serde_json::from_str(status).unwrap_or_default();
            Err(Box::new(Unreadable { metadata, status, problem }))
        }
    }
}

impl Unreadable {
    /// Its status with the error; nothing if that stands there already.
    fn status(&self) -> Option<Value> {
        let message = format!(
            "{}: was it written for a newer version of Stoker? Upgrade the operator, or correct the field; until then nothing is done for this resource, and what it owns stays as it is",
            self.problem
        );
        let error = json!({"reason": Reason::InvalidConfig, "message": message});
        let mut status = self.status.clone();
        let before = status.insert("error".into(), error.clone());
        (before != Some(error)).then_some(Value::Object(status))
    }
}

/// What a store is told. Of an object that cannot be read that is nothing, or that it is gone if the store knows it, by which
/// nothing is deleted; and `refused` is told of it.
pub fn readable<K: ReadLean>(
    event: Event<Watched<K>>,
    written: &Written<K>,
    refused: &UnboundedSender<Box<Unreadable>>,
) -> Option<Event<K>> {
    let refuse = |unreadable: Box<Unreadable>| {
        // Nobody listens any more only when the operator ends.
        let _ = refused.unbounded_send(unreadable);
    };
    match event {
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
        Event::InitApply(watched) => read(watched).map(Event::InitApply).map_err(refuse).ok(),
        // What we wrote need not be parsed.
        Event::Apply(watched) if let Some(own) = written.take(&watched.metadata) => {
            Some(Event::Apply(Arc::unwrap_or_clone(own)))
        }
        Event::Apply(watched) => match read(watched) {
            Ok(object) => Some(Event::Apply(object)),
            Err(unreadable) => {
                let known = known(written.watched(), &unreadable.metadata);
                refuse(unreadable);
                known.map(Event::Delete)
            }
        },
        Event::Delete(watched) => {
            read(watched).map_or_else(|gone| known(written.watched(), &gone.metadata), Some).map(Event::Delete)
        }
    }
}

/// The object as the store knows it.
fn known<K: ReadLean>(store: &Store<K>, metadata: &ObjectMeta) -> Option<K> {
    let name = ObjectRef::new(metadata.name.as_deref()?).within(metadata.namespace.as_deref()?);
    store.get(&name).map(Arc::unwrap_or_clone)
}

/// Says of each object that cannot be read so in its status, for as long as there may be one.
pub async fn say<K: ReadLean>(context: Arc<Context>, refused: UnboundedReceiver<Box<Unreadable>>) {
    let at_once = usize::from(context.settings.concurrency);
    let of_each = |unreadable: Box<Unreadable>| {
        let context = context.clone();
        async move { say_of::<K>(&context, &unreadable).await }
    };
    refused.for_each_concurrent(at_once, of_each).await;
}

async fn say_of<K: ReadLean>(context: &Context, unreadable: &Unreadable) {
    let Some(wanted) = unreadable.status() else { return };
    let Unreadable { metadata, problem, .. } = unreadable;
    let (kind, namespace, name) = (K::kind(&()), metadata.namespace.as_deref(), metadata.name.as_deref());
    tracing::warn!(%kind, namespace, name, problem, "an object cannot be read: nothing is done for it");
    for tried in 1..=TRIES {
        let Err(error) = status::write_unchanged::<K>(context, metadata, wanted.clone()).await else { return };
        tracing::warn!(error = &error as &dyn std::error::Error, "the status of an object could not be written");
        tokio::time::sleep(error.class().delay(tried)).await;
    }
}

/// A part of an object; else what of it cannot be read, and why.
fn parsed<T: DeserializeOwned>(part: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column, said) = (error.line(), error.column(), error.to_string());
        let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let mut field = vec![part];
        field.extend(open_fields(text.get(..before + column).unwrap_or_default()));
        // The place in the text is of no use to a person, and changes with whatever stands before it.
        let why = said.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&said);
        format!("{} cannot be read: {why}", field.join("."))
    })
}

/// The fields that are open at the end of the start of a JSON text, from the outermost inwards.
fn open_fields(start: &str) -> impl Iterator<Item = &str> {
    let (mut fields, mut last, mut rest) = (Vec::new(), "", start);
    while let Some(at) = rest.find(['"', ':', ',', '{', '[', '}', ']']) {
        let token = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        match token {
            b'"' => (last, rest) = string(rest),
            b'{' | b'[' => fields.push(""),
            b'}' | b']' => {
                fields.pop();
            }
            _ => {
                if let Some(field) = fields.last_mut() {
                    *field = if token == b':' { last } else { "" };
                }
            }
        }
    }
    fields.into_iter().filter(|field| !field.is_empty())
}

/// A JSON string without its quotation marks, of which the first is not there any more, and what follows it.
fn string(text: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let ends = |byte: u8| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    };
    let end = text.bytes().position(ends).unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests;
