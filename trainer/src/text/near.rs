//! Near duplicates: MinHash (Broder, 1997) and banding find candidates, which are then compared exactly.
//!
//! Two documents are as similar as their sets of shingles, the runs of [`SHINGLE`] characters: the share of all shingles of
//! both that both have (Jaccard). The least hashes of a document's shingles under [`HASHES`] functions are a sketch: of two
//! documents, each least hash is the same with the probability of their similarity. Bands of several hashes are looked up,
//! of which at least one is the same for nearly all pairs that are similar enough.

use std::{collections::HashMap, iter::successors};

use crate::data::DataError;

/// The characters of a shingle.
const SHINGLE: usize = 9;
/// The hash functions of a sketch.
const HASHES: usize = 128;
/// The most that may be overlooked of pairs that are just similar enough.
const OVERLOOKED: f64 = 1e-3;
/// The most documents that are compared for one band. Whole corpora can be made from one template, all of whose documents
/// share bands: to compare each with all others would take forever.
const OF_A_BAND: usize = 8;
/// The bytes of a band in a sketch.
const BAND: usize = size_of::<u32>();
/// The bytes that a map takes for an entry: key, value, and its own byte.
const ENTRY: usize = 2 * size_of::<u32>() + 1;

/// Makes sketches of documents.
#[derive(Debug)]
pub(super) struct Sketcher {
    /// The hashes of a band.
    rows: usize,
    bands: usize,
    functions: [(u64, u64); HASHES],
}

impl Sketcher {
    /// Sketches for pairs of at least a similarity.
    pub(super) fn new(similarity: f64) -> Self {
        let (bands, rows) = banding(similarity);
        // Fixed, so that the same documents give the same sketches; odd factors, so that no bit of a shingle is lost.
        let mut state = 0;
        let mut next = || {
            state = mix(state);
            state
        };
        let functions = std::array::from_fn(|_| (next() | 1, next()));
        Self { rows, bands, functions }
    }

    /// The sketch of a text: a number for each band.
    pub(super) fn sketch(&self, text: &str) -> Vec<u8> {
        let mut least = [u32::MAX; HASHES];
        for_each_shingle(text, |shingle| {
            for (least, (factor, term)) in least.iter_mut().zip(&self.functions) {
                let hash = factor.wrapping_mul(shingle).wrapping_add(*term) >> 32;
                *least = (*least).min(hash as u32);
            }
        });
        let band = |hashes: &[u32]| hashes.iter().fold(0, |band, hash| mix(band ^ u64::from(*hash))) as u32;
        least.chunks_exact(self.rows).take(self.bands).flat_map(|hashes| band(hashes).to_le_bytes()).collect()
    }
}

/// The number of bands, and of hashes in each: as many hashes as overlook few pairs, since more bring up fewer that are not
/// similar enough.
fn banding(similarity: f64) -> (usize, usize) {
    let of_rows = |rows: usize| (HASHES / rows, rows);
    let overlooked = |(bands, rows): (usize, usize)| (1.0 - similarity.powi(rows as i32)).powi(bands as i32);
    (1..=HASHES).map(of_rows).rev().find(|banding| overlooked(*banding) <= OVERLOOKED).unwrap_or(of_rows(1))
}

/// The documents that have each number of a band.
#[derive(Clone, Debug, Default)]
struct Band {
    /// The last one that has a number.
    last: HashMap<u32, u32>,
    /// The one before a document that has the same number. Most numbers are of one document alone, which is not here.
    before: HashMap<u32, u32>,
}

impl Band {
    fn add(&mut self, number: u32, document: u32) {
        if let Some(before) = self.last.insert(number, document) {
            self.before.insert(document, before);
        }
    }

    /// The last few documents that have a number.
    fn documents(&self, number: u32) -> impl Iterator<Item = u32> {
        successors(self.last.get(&number), |document| self.before.get(document)).take(OF_A_BAND).copied()
    }

    fn bytes(&self) -> usize {
        (self.last.capacity() + self.before.capacity()) * ENTRY
    }
}

/// The documents that are kept so far, by the bands of their sketches.
#[derive(Debug)]
pub(super) struct Kept {
    similarity: f64,
    bands: Vec<Band>,
    /// Where each document stands.
    places: Vec<u64>,
    /// The most bytes that this may take.
    limit: usize,
}

impl Kept {
    pub(super) fn new(similarity: f64, limit: usize) -> Self {
        let (bands, _) = banding(similarity);
        Self { similarity, bands: vec![Band::default(); bands], places: Vec::new(), limit }
    }

    /// Whether a document that was kept is similar enough to a text. `text_at` gives the text of one by its place.
    pub(super) fn has_near(
        &self,
        text: &str,
        sketch: &[u8],
        text_at: impl Fn(u64) -> Result<String, DataError>,
    ) -> Result<bool, DataError> {
        let mut candidates: Vec<u32> =
            self.bands.iter().zip(numbers(sketch)).flat_map(|(band, number)| band.documents(number)).collect();
        if candidates.is_empty() {
            return Ok(false);
        }
        candidates.sort_unstable();
        candidates.dedup();
        let shingles = shingles(text);
        for candidate in candidates {
            let place = self.places.get(candidate as usize).copied();
            let place = place.ok_or_else(|| DataError::internal("a document was kept without its place"))?;
            if similarity(&shingles, &self::shingles(&text_at(place)?)) >= self.similarity {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps a document that stands at a place.
    ///
    /// # Errors
    /// If it would take too much memory.
    pub(super) fn keep(&mut self, sketch: &[u8], place: u64) -> Result<(), DataError> {
        let document = u32::try_from(self.places.len()).map_err(|_| self.too_many())?;
        self.places.push(place);
        for (band, number) in self.bands.iter_mut().zip(numbers(sketch)) {
            band.add(number, document);
        }
        if self.bytes() > self.limit { Err(self.too_many()) } else { Ok(()) }
    }

    fn bytes(&self) -> usize {
        self.bands.iter().map(Band::bytes).sum::<usize>() + self.places.capacity() * size_of::<u64>()
    }

    fn too_many(&self) -> DataError {
        DataError::InvalidConfig(format!(
            "the memory does not suffice to find near duplicates of more than {} documents: raise spec.resources.memory, or remove spec.data.text.nearDuplicates",
            self.places.len()
        ))
    }
}

fn numbers(sketch: &[u8]) -> impl Iterator<Item = u32> {
    sketch.as_chunks::<BAND>().0.iter().copied().map(u32::from_le_bytes)
}

/// The share of shingles of two documents that both have, of sorted ones that stand once.
fn similarity(a: &[u64], b: &[u64]) -> f64 {
    let (mut rest, mut both) = (b, 0_usize);
    for shingle in a {
        let smaller = rest.partition_point(|other| other < shingle);
        rest = &rest[smaller..];
        both += usize::from(rest.first() == Some(shingle));
    }
    both as f64 / (a.len() + b.len() - both) as f64
}

/// The hashes of a text's shingles, sorted, each once.
fn shingles(text: &str) -> Vec<u64> {
    let mut shingles = Vec::new();
    for_each_shingle(text, |shingle| shingles.push(shingle));
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// The hash of each shingle of a text, in lower case and with one space for any blank; a shorter text is one shingle.
fn for_each_shingle(text: &str, mut each: impl FnMut(u64)) {
    const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
    let first_weight = (1..SHINGLE).fold(1, |weight: u64, _| weight.wrapping_mul(BASE));
    let (mut window, mut seen, mut hash) = ([0_u64; SHINGLE], 0_usize, 0_u64);
    for character in normal(text).map(|character| u64::from(character) + 1) {
        let oldest = std::mem::replace(&mut window[seen % SHINGLE], character);
        hash = hash.wrapping_sub(oldest.wrapping_mul(first_weight)).wrapping_mul(BASE).wrapping_add(character);
        seen += 1;
        if seen >= SHINGLE {
            each(mix(hash));
        }
    }
    if seen < SHINGLE {
        each(mix(hash));
    }
}

/// Lower case, and one space for any blank.
fn normal(text: &str) -> impl Iterator<Item = char> {
    let mut was_blank = true;
    let collapsed = text.trim_end().chars().filter_map(move |character| {
        let is_blank = character.is_whitespace();
        let is_more = is_blank && was_blank;
        was_blank = is_blank;
        (!is_more).then_some(if is_blank { ' ' } else { character })
    });
    collapsed.flat_map(char::to_lowercase)
}

/// Spreads a number over all bits: the finalizer of splitmix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn letters(count: usize, random: &mut ChaCha8Rng) -> String {
        (0..count).map(|_| random.random_range('a'..='z')).collect()
    }

    /// Two texts of ten equal parts of random letters, of which the first few are the same in both.
    fn pair(shared: usize, random: &mut ChaCha8Rng) -> [String; 2] {
        let part = |random: &mut ChaCha8Rng| letters(508, random);
        let common: Vec<String> = (0..shared).map(|_| part(random)).collect();
        [(); 2].map(|()| {
            let own: Vec<String> = (shared..10).map(|_| part(random)).collect();
            common.iter().chain(&own).map(String::as_str).collect::<Vec<_>>().join("-")
        })
    }

    fn exact([a, b]: &[String; 2]) -> f64 {
        similarity(&shingles(a), &shingles(b))
    }

    fn is_found([a, b]: &[String; 2], at: f64) -> bool {
        let sketcher = Sketcher::new(at);
        let mut kept = Kept::new(at, usize::MAX);
        kept.keep(&sketcher.sketch(a), 0).unwrap();
        kept.has_near(b, &sketcher.sketch(b), |_| Ok(a.clone())).unwrap()
    }

    #[test]
    fn shingles_are_compared_exactly() {
        assert_eq!(exact(&["abcdefghij".into(), "abcdefghij".into()]), 1.0);
        // Shingles of nine: two of each, one in common, so one of three.
        assert_eq!(exact(&["abcdefghij".into(), "bcdefghijk".into()]), 1.0 / 3.0);
        assert_eq!(exact(&["abcdefghij".into(), "klmnopqrst".into()]), 0.0);
        assert_eq!(exact(&["short".into(), "short".into()]), 1.0);
        assert_eq!(exact(&["short".into(), "other".into()]), 0.0);
        assert_eq!(exact(&["  The same\nWORDS, twice ".into(), "the same  words, twice".into()]), 1.0);
    }

    #[test]
    fn pairs_are_found_at_and_above_the_similarity_and_not_below() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for shared in [4, 7, 8, 9, 10] {
            for _ in 0..20 {
                let pair = pair(shared, &mut random);
                let similarity = exact(&pair);
                assert!(is_found(&pair, similarity.max(0.5)) == (similarity >= 0.5), "{shared} {similarity}");
                assert!(!is_found(&pair, similarity.max(0.5) + 1e-9) || similarity == 1.0, "{shared} {similarity}");
                assert_eq!(is_found(&pair, 0.8), similarity >= 0.8, "{shared} {similarity}");
            }
        }
    }

    /// A text that fills a template with so many letters of its own.
    fn filled(template: &str, own: usize, random: &mut ChaCha8Rng) -> String {
        format!("{template}-{}", letters(own, random))
    }

    /// All that such a pair shares, the documents before it have too.
    #[test]
    fn a_pair_is_found_beside_other_documents_of_its_template() {
        let (sketcher, mut random) = (Sketcher::new(0.8), ChaCha8Rng::seed_from_u64(9));
        for _ in 0..20 {
            let template = letters(4000, &mut random);
            let (mut kept, mut texts) = (Kept::new(0.8, usize::MAX), Vec::<String>::new());
            let mut is_found = |own: usize| {
                let text = filled(&template, own, &mut random);
                let sketch = sketcher.sketch(&text);
                let is_found = kept.has_near(&text, &sketch, |place| Ok(texts[place as usize].clone())).unwrap();
                kept.keep(&sketch, texts.len() as u64).unwrap();
                texts.push(text);
                is_found
            };
            for _ in 0..OF_A_BAND - 1 {
                assert!(!is_found(1200), "they share less than two thirds");
            }
            assert!(!is_found(300), "it shares 4000 of 5500 with those");
            assert!(is_found(300), "it shares 4000 of 4600 with the last one");
        }
    }

    #[test]
    fn however_many_documents_share_bands_few_are_compared() {
        let (sketcher, mut random) = (Sketcher::new(0.8), ChaCha8Rng::seed_from_u64(10));
        let template = letters(400, &mut random);
        let (mut kept, compared) = (Kept::new(0.8, usize::MAX), Cell::new(0));
        for place in 0..2000 {
            kept.keep(&sketcher.sketch(&filled(&template, 120, &mut random)), place).unwrap();
        }
        let text = filled(&template, 120, &mut random);
        let other = |_| {
            compared.set(compared.get() + 1);
            Ok("another text".to_owned())
        };
        assert!(!kept.has_near(&text, &sketcher.sketch(&text), other).unwrap());
        assert!((1..=OF_A_BAND * sketcher.bands).contains(&compared.get()), "{}", compared.get());
    }

    #[test]
    fn a_hash_is_the_same_in_as_many_pairs_as_their_similarity_says() {
        let (sketcher, mut random) = (Sketcher::new(1.0), ChaCha8Rng::seed_from_u64(8));
        let least = |text: &str| -> Vec<u32> {
            let least = |(factor, term): &(u64, u64)| {
                shingles(text).iter().map(|s| (factor.wrapping_mul(*s).wrapping_add(*term) >> 32) as u32).min()
            };
            sketcher.functions.iter().map(|function| least(function).unwrap()).collect()
        };
        let (mut same, mut expected) = (0, 0.0);
        for shared in [2, 5, 8] {
            for _ in 0..4 {
                let pair = pair(shared, &mut random);
                let [a, b] = pair.each_ref().map(|text| least(text));
                same += a.iter().zip(&b).filter(|(a, b)| a == b).count();
                expected += exact(&pair) * HASHES as f64;
            }
        }
        // 1,536 draws have a standard deviation of at most 20.
        assert!((same as f64 - expected).abs() < 80.0, "{same} {expected}");
    }

    #[test]
    fn bands_overlook_few_pairs_and_have_no_fewer_hashes_than_that_allows() {
        for (similarity, expected) in [(0.5, (64, 2)), (0.8, (25, 5)), (1.0, (1, 128))] {
            assert_eq!(banding(similarity), expected);
        }
    }

    #[test]
    fn documents_that_the_memory_does_not_hold_are_refused_with_what_to_do() {
        let (sketcher, mut kept) = (Sketcher::new(0.8), Kept::new(0.8, 1 << 16));
        let error = (0..10_000).find_map(|i| kept.keep(&sketcher.sketch(&format!("document {i}")), i).err()).unwrap();
        assert_eq!(error.reason(), stoker_crds::Reason::InvalidConfig);
        assert!(error.to_string().contains("spec.resources.memory"), "{error}");
    }
}
