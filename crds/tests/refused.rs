//! What the API server refuses is refused by the types too, wherever they know the rule.
//!
//! Each file of `refused/` is one wrong manifest. Its header says what the API server answers: the `field`, and a part
//! of the `message`. A line `rust` says what the types of this crate answer; without it, they take the manifest. The
//! end-to-end tests apply the same files to a real API server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::Path};

use serde::de::DeserializeOwned;
use stoker_crds::{ModelDeploymentSpec, ModelTrainingSpec, training::validate::check_name};

/// Stands in a header where the manifest cannot even be parsed, which is said in serde's own words.
const UNPARSABLE: &str = "(cannot be parsed)";

/// The trainings that `stoker-trainer local` takes though the API server does not, and why it does.
const TAKEN_WITHOUT_A_CLUSTER: [(&str, &str); 4] = [
    ("training-file-of-the-image.yaml", "it mounts nothing, so there is no folder of an image beside a mounted one"),
    ("training-file-without-a-volume.yaml", "it reads files of the machine, which are on no claim"),
    ("training-storage-without-a-volume.yaml", "it writes files of the machine, which are on no claim"),
    ("training-tokenizer-without-a-volume.yaml", "it reads files of the machine, which are on no claim"),
];

#[derive(serde::Deserialize)]
struct Manifest<S> {
    metadata: Metadata,
    spec: S,
}

#[derive(serde::Deserialize)]
struct Metadata {
    name: String,
}

#[test]
fn the_types_refuse_what_each_file_says_that_they_refuse() {
    let mut wrong = Vec::new();
    for (name, yaml) in files() {
        let said = answer(&yaml);
        let fits = match header(&yaml).get("rust") {
            None => said.is_none(),
            Some(&UNPARSABLE) => said.as_ref().is_some_and(|said| said.starts_with(UNPARSABLE)),
            Some(message) => said.as_ref().is_some_and(|said| said.contains(message)),
        };
        if !fits {
            wrong.push(format!("{name}: {}", said.unwrap_or_else(|| "taken".to_owned())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_training_that_the_api_server_refuses_is_refused_without_one_too() {
    let trainings = files().into_iter().filter(|(name, _)| name.starts_with("training-"));
    let mut taken: Vec<String> = trainings.filter(|(_, yaml)| answer(yaml).is_none()).map(|(name, _)| name).collect();
    taken.sort();
    assert_eq!(taken, TAKEN_WITHOUT_A_CLUSTER.map(|(name, _why)| name));
}

/// The wrong manifests, by the names of their files.
fn files() -> Vec<(String, String)> {
    let files = fs::read_dir(Path::new("tests/refused")).unwrap().map(Result::unwrap);
    let read = |file: fs::DirEntry| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap());
    files.map(read).collect()
}

/// What the types say against a manifest.
fn answer(yaml: &str) -> Option<String> {
    if yaml.contains("\nkind: ModelDeployment\n") {
        return parse::<ModelDeploymentSpec>(yaml).err();
    }
    let Manifest { metadata, spec } = match parse::<ModelTrainingSpec>(yaml) {
        Ok(manifest) => manifest,
        Err(message) => return Some(message),
    };
    let errors = check_name(&metadata.name).err().into_iter().chain(spec.validate().err().into_iter().flatten());
    let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

fn parse<S: DeserializeOwned>(yaml: &str) -> Result<Manifest<S>, String> {
    serde_saphyr::from_str(yaml).map_err(|error| format!("{UNPARSABLE} {error}"))
}

fn header(yaml: &str) -> BTreeMap<&str, &str> {
    yaml.lines().map_while(|line| line.strip_prefix("# ")?.split_once(": ")).collect()
}
