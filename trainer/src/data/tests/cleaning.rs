use stoker_crds::Reason;

use super::*;

#[tokio::test]
async fn equal_rows_are_dropped_and_counted_if_asked() {
    let bucket = Bucket::new(&[("1.csv", "x,id,y\n1,a,2\n1,b,2\n3,c,4\n"), ("2.csv", "x,id,y\n1.0,d,2\n")]);
    let change = |duplicates| json!({"features": ["x"], "clean": {"duplicates": duplicates}});
    let kept = bucket.prepare(&data("s3://b/*.csv", change("Keep")), Task::Regression).await.unwrap();
    assert_eq!((kept.train.len(), dropped(&kept)), (4, vec![("missing", 0)]));
    let unique = bucket.prepare(&data("s3://b/*.csv", change("Drop")), Task::Regression).await.unwrap();
    assert_eq!((unique.train.len(), dropped(&unique)), (2, vec![("duplicates", 2), ("missing", 0)]));
    assert_eq!(unique.stats.rows_read, 4);
}

#[tokio::test]
async fn rows_that_fail_a_predicate_are_dropped_and_a_missing_value_is_left_to_its_own_rule() {
    let bucket =
        Bucket::new(&[("d.csv", "Age,day,y\n5,2024-01-01,1\n,2024-01-02,1\n200,2024-01-03,1\n7,2023-01-01,1\n")]);
    let require = json!({
        "features": ["Age"],
        "clean": {"require": ["Age BETWEEN 0 AND 120", "day >= '2024-01-01'"], "missing": {"strategy": "Mean"}},
    });
    let prepared = bucket.prepare(&data("s3://b/d.csv", require), Task::Regression).await.unwrap();
    assert_eq!(prepared.train.len(), 2);
    assert_eq!(dropped(&prepared), [("missing", 0), ("require", 2)]);
}

#[tokio::test]
async fn rows_without_a_target_or_a_needed_feature_are_dropped() {
    let bucket = Bucket::new(&[("d.csv", "a,b,y\n1,,1\n,x,1\nNaN,x,1\n2,x,\n3,x,NaN\n4,y,1\n")]);
    let clean = json!({"clean": {"missing": {"columns": {"b": {"strategy": "Constant", "value": "none"}}}}});
    let prepared = bucket.prepare(&data("s3://b/d.csv", clean), Task::Regression).await.unwrap();
    assert_eq!((prepared.train.len(), dropped(&prepared)), (2, vec![("missing", 4)]));
}

#[tokio::test]
async fn outliers_leave_the_training_split_alone() {
    let mut text = lines(200);
    text += &(0..20).map(|row| format!("{},1\n", 1e6 + f64::from(row))).collect::<String>();
    let bucket = Bucket::new(&[("d.csv", &text)]);
    let config = json!({
        "split": {"train": 0.5, "validation": 0.0, "test": 0.5},
        "clean": {"outliers": {"zScore": 2.0}},
        "transform": {"numeric": "None"},
    });
    let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    let far = |rows: &Rows| all(rows).iter().filter(|(features, _)| features[0] >= 1e6).count() as u64;
    let outliers = prepared.stats.rows_dropped["outliers"];
    assert_eq!((far(&prepared.train), prepared.stats.train), (0, 110 - outliers));
    assert_eq!(far(&prepared.test), 20 - outliers);
    assert!((1..20).contains(&outliers), "{outliers}");
}

#[tokio::test]
async fn statistics_are_those_of_the_rows_that_are_left_after_outliers() {
    let text = lines(100) + "100000,1\n";
    let bucket = Bucket::new(&[("d.csv", &text)]);
    let config = json!({"clean": {"outliers": {"zScore": 3.0}}, "transform": {"numeric": "MinMax"}});
    let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    let largest = all(&prepared.train).iter().map(|(features, _)| features[0]).fold(0.0, f32::max);
    assert_eq!((prepared.stats.rows_dropped["outliers"], largest), (1, 1.0));
}

#[tokio::test]
async fn rows_that_may_not_stay_in_memory_are_the_same_in_a_file() {
    let bucket = Bucket::new(&[("1.csv", &lines(1000)), ("2.csv", &lines(500))]);
    let config = data("s3://b/*.csv", json!({"clean": {"duplicates": "Drop"}}));
    let in_memory = bucket.prepare(&config, Task::Regression).await.unwrap();
    let limits = Limits { rows_in_memory: 0, ..LIMITS };
    let in_file = bucket.prepare_within(&config, Task::Regression, limits).await.unwrap();
    assert_eq!((in_memory.stats.train, dropped(&in_memory)[0]), (1000, ("duplicates", 500)));
    assert_eq!(in_memory.stats, in_file.stats);
    assert_eq!(all(&in_memory.train), all(&in_file.train));
    assert_eq!(fs::read_dir(bucket.scratch().folder()).unwrap().count(), 0, "nothing is left in the scratch folder");
}

#[tokio::test]
async fn counts_are_told_while_they_grow_and_at_the_end() {
    let bucket = Bucket::new(&[("d.csv", &lines(1000))]);
    let told = std::sync::Mutex::new(Vec::new());
    let config = data("s3://b/d.csv", json!({}));
    let on_stats = |stats: &stoker_crds::progress::DataStats| told.lock().unwrap().push(stats.clone());
    let (access, scratch) = (bucket.access(), bucket.scratch());
    let prepared = crate::data::prepare(&config, Task::Regression, &access, &scratch, &on_stats).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted_by_key(|stats| stats.rows_read));
    assert_eq!(told.last(), Some(&prepared.stats));
    assert_eq!((prepared.stats.rows_read, prepared.stats.train), (1000, 1000));
}

#[tokio::test]
async fn data_that_outgrows_the_scratch_folder_ends_the_run_before_the_disk_is_full() {
    let bucket = Bucket::new(&[("d.csv", &lines(100_000))]);
    let (access, small) = (bucket.access(), Scratch::new(bucket.scratch().folder(), 1 << 20));
    let data = data("s3://b/d.csv", json!({}));
    let error = Pipeline::new(&data, Task::Regression, &access, &small, LIMITS).split().await.err().unwrap();
    assert_eq!(error.reason(), Reason::DiskFull, "{error}");
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
}

#[tokio::test]
async fn what_is_spilled_counts_against_the_scratch_folder_too() {
    let bucket = Bucket::new(&[("d.csv", &long_rows(400_000))]);
    let (access, small) = (bucket.access(), Scratch::new(bucket.scratch().folder(), 4 << 20));
    let data = data("s3://b/d.csv", json!({"clean": {"duplicates": "Drop"}}));
    let limits = Limits { memory: crate::data::session::MIN_MEMORY, ..LIMITS };
    let error = Pipeline::new(&data, Task::Regression, &access, &small, limits).split().await.err().unwrap();
    assert_eq!(error.reason(), Reason::DiskFull, "{error}");
    assert!(error.to_string().contains("4194304 bytes"), "{error}");
}

#[tokio::test]
async fn data_that_outgrows_the_memory_is_cleaned_and_ordered_on_disk() {
    const ROWS: usize = 400_000;
    let bucket = Bucket::new(&[("d.csv", &long_rows(ROWS))]);
    let (access, scratch) = (bucket.access(), bucket.scratch());
    for clean in [json!({"duplicates": "Drop"}), json!({"duplicates": "Keep"})] {
        let data = data("s3://b/d.csv", json!({"clean": clean}));
        let split = async |limits| {
            let pipeline = Pipeline::new(&data, Task::Regression, &access, &scratch, limits);
            (pipeline.split().await.unwrap().train, pipeline.stats())
        };
        let (on_disk, stats) = split(Limits { memory: crate::data::session::MIN_MEMORY, ..LIMITS }).await;
        let (in_memory, same_stats) = split(Limits { memory: 16 << 30, ..LIMITS }).await;
        assert_eq!((stats.rows_read, &stats), (ROWS as u64, &same_stats));
        assert!(raw(&on_disk) == raw(&in_memory), "{clean}");
    }
}

/// Rows of a quarter of a kilobyte, each of them twice.
fn long_rows(rows: usize) -> String {
    let note = "x".repeat(250);
    let lines = (0..rows).map(|row| format!("{}-{note},{}\n", row % (rows / 2), row % 2));
    std::iter::once("note,y\n".to_owned()).chain(lines).collect()
}
