//! A table as it comes out of a system: numbers and text, some rows twice, some values missing, some that cannot be.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use stoker_e2e::{Error, Result};

const HEAD: &str = "age,income,height,weight,balance,visits,tenure,score,city,plan,label";
const CITIES: [&str; 8] =
    ["Amsterdam", "Barcelona", "Copenhagen", "Dublin", "Edinburgh", "Florence", "Gothenburg", "Hamburg"];
const PLANS: [&str; 4] = ["free", "basic", "professional", "enterprise"];
/// The share of rows that are written twice.
const TWICE: f64 = 0.01;
/// The share of values that are missing.
const MISSING: f64 = 0.01;
/// The share of ages, and of incomes, that cannot be.
const WRONG: f64 = 0.005;
/// Of the last rows, so many can be written once more.
const RECENT: usize = 4096;

/// What `spec.data` says of it; bench/peer/prepare.py does the same.
pub(super) fn data(path: &Path) -> Value {
    json!({
        "source": {"uri": format!("file://{}", path.display())},
        "target": ["label"],
        "clean": {
            "duplicates": "Drop",
            "missing": {"strategy": "Mean", "columns": {
                "score": {"strategy": "Drop"}, "city": {"strategy": "MostFrequent"}, "plan": {"strategy": "MostFrequent"},
            }},
            "require": ["age BETWEEN 0 AND 120", "income >= 0"],
        },
        "transform": {"numeric": "Standardize", "categorical": "OneHot"},
        "split": {"train": 0.8, "validation": 0.1, "test": 0.1, "seed": 7},
    })
}

/// A file of about so many bytes in a folder: the one that is there, or a new one.
///
/// # Errors
/// If the disk is full.
pub(super) fn file(folder: &Path, bytes: u64) -> Result<PathBuf> {
    let path = folder.join(format!("rows-{bytes}.csv"));
    let failed = |source| Error::File { path: path.clone(), source };
    if !path.exists() {
        fs::create_dir_all(folder).map_err(failed)?;
        let half = path.with_extension("half");
        write(&half, bytes).map_err(failed)?;
        fs::rename(&half, &path).map_err(failed)?;
    }
    Ok(path)
}

fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "{HEAD}")?;
    let (mut rng, mut recent, mut written) = (ChaCha8Rng::seed_from_u64(bytes), Vec::with_capacity(RECENT), 0);
    while written < bytes {
        let line = row(&mut rng);
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
        if rng.random_bool(TWICE) && !recent.is_empty() {
            let again: &String = &recent[rng.random_range(0..recent.len())];
            file.write_all(again.as_bytes())?;
            written += again.len() as u64;
        }
        match recent.len() {
            RECENT => recent[rng.random_range(0..RECENT)] = line,
            _ => recent.push(line),
        }
    }
    file.flush()
}

fn row(rng: &mut ChaCha8Rng) -> String {
    let age = if rng.random_bool(WRONG) { 999 } else { rng.random_range(18..90) };
    let income = if rng.random_bool(WRONG) { -1.0 } else { rng.random_range(0.0..200_000.0) };
    let score: f64 = rng.random_range(0.0..1.0);
    let values = [
        age.to_string(),
        format!("{income:.2}"),
        format!("{:.1}", rng.random_range(140.0..210.0)),
        format!("{:.1}", rng.random_range(40.0..150.0)),
        format!("{:.4}", rng.random_range(-10_000.0..100_000.0)),
        rng.random_range(0..1000).to_string(),
        format!("{:.3}", rng.random_range(0.0..40.0)),
        format!("{score:.9}"),
        CITIES[rng.random_range(0..CITIES.len())].to_owned(),
        PLANS[rng.random_range(0..PLANS.len())].to_owned(),
    ];
    let mut line = String::with_capacity(120);
    for value in values {
        if !rng.random_bool(MISSING) {
            line += &value;
        }
        line.push(',');
    }
    line + &format!("{:.6}\n", income / 1e5 + score + rng.random_range(-0.1..0.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_always_the_same() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [first, second] =
            folders.each_ref().map(|folder| fs::read_to_string(file(folder.path(), 200_000).unwrap()).unwrap());
        assert_eq!(first, second);
        let columns = HEAD.split(',').count();
        assert!(first.len() >= 200_000 && first.lines().all(|line| line.split(',').count() == columns));
        assert!(first.lines().any(|line| line.contains(",,")) && first.lines().any(|line| line.contains(",-1.00,")));
        let kept = folders[0].path().join("rows-200000.csv");
        fs::write(&kept, "mine").unwrap();
        assert_eq!(fs::read_to_string(file(folders[0].path(), 200_000).unwrap()).unwrap(), "mine");
    }
}
