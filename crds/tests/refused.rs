//! What the API server refuses is refused by the types too, wherever they know the rule.
//!
//! Each file of `refused/` is one wrong manifest. Its header says what the API server answers: the `field`, and a part
//! of the `message`. A line `rust` says what the types of this crate answer; without it, they take the manifest. The
//! end-to-end tests apply the same files to a real API server.

use std::{collections::BTreeMap, fs, path::Path};

use serde::de::DeserializeOwned;
use stoker_crds::{ModelDeploymentSpec, ModelTrainingSpec};

/// Stands in a header where the manifest cannot even be parsed, which is said in serde's own words.
const UNPARSABLE: &str = "(cannot be parsed)";

#[derive(serde::Deserialize)]
struct Manifest<S> {
    spec: S,
}

#[test]
fn the_types_refuse_what_each_file_says_that_they_refuse() {
    let files = fs::read_dir(Path::new("tests/refused")).unwrap();
    let mut wrong = Vec::new();
    for file in files {
        let path = file.unwrap().path();
        let yaml = fs::read_to_string(&path).unwrap();
        let said = answer(&yaml);
        let fits = match header(&yaml).get("rust") {
            None => said.is_none(),
            Some(&UNPARSABLE) => said.as_ref().is_some_and(|said| said.starts_with(UNPARSABLE)),
            Some(message) => said.as_ref().is_some_and(|said| said.contains(message)),
        };
        if !fits {
            wrong.push(format!("{}: {}", path.display(), said.unwrap_or_else(|| "taken".to_owned())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the types say against a manifest.
fn answer(yaml: &str) -> Option<String> {
    if yaml.contains("\nkind: ModelDeployment\n") {
        return parse::<ModelDeploymentSpec>(yaml).err();
    }
    match parse::<ModelTrainingSpec>(yaml) {
        Ok(spec) => {
            let errors = spec.validate().err()?;
            Some(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        Err(message) => Some(message),
    }
}

fn parse<S: DeserializeOwned>(yaml: &str) -> Result<S, String> {
    let manifest: Result<Manifest<S>, _> = serde_saphyr::from_str(yaml);
    manifest.map(|manifest| manifest.spec).map_err(|error| format!("{UNPARSABLE} {error}"))
}

fn header(yaml: &str) -> BTreeMap<&str, &str> {
    yaml.lines().map_while(|line| line.strip_prefix("# ")?.split_once(": ")).collect()
}
