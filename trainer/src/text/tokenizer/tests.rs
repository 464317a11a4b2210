use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const TEXT: &str = "the cat sat on the mat, and the cat ate the rat; ünïcödé, ünïcödé, 日本語 日本語 日本語";

fn fitted(vocabulary_size: u32) -> Tokenizer {
    fit((0..3).map(|_| Ok(TEXT.to_owned())), vocabulary_size).unwrap()
}

/// Texts of any characters, those that tokenizers treat apart among them.
fn texts() -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut text = || {
        let character = |random: &mut ChaCha8Rng| match random.random_range(0..4) {
            0 => random.random_range(' '..='~'),
            1 => random.random_range('\0'..='\u{3FF}'),
            2 => ['\n', '\r', '\t', ' ', '\u{A0}', '\u{3000}', '\u{200D}', '\u{FEFF}'][random.random_range(0..8)],
            _ => random.random_range('\0'..=char::MAX),
        };
        (0..random.random_range(0..80)).map(|_| character(&mut random)).collect()
    };
    let known = ["", " ", "\n\n", TEXT, "<|endoftext|>", "a<|endoftext|>b", "e\u{301}", "👩‍👩‍👧‍👦"];
    let blank = " ".repeat(100_000) + "x";
    known.into_iter().map(str::to_owned).chain([blank]).chain((0..500).map(|_| text())).collect()
}

#[test]
fn any_text_comes_back_from_its_tokens() {
    for tokenizer in [Tokenizer::bytes().unwrap(), fitted(257), fitted(400)] {
        for text in texts() {
            let tokens = tokenizer.encode(&text).unwrap();
            assert!(!tokens.contains(&tokenizer.end_of_text()), "{text:?}");
            assert!(tokens.iter().all(|token| (*token as usize) < tokenizer.vocabulary_size()));
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
    }
}

#[test]
fn texts_have_the_same_tokens_together_as_each_alone() {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for tokenizer in [Tokenizer::bytes().unwrap(), fitted(400)] {
        let alone: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        assert_eq!(tokenizer.encode_all(&texts).unwrap(), alone);
    }
}

#[test]
fn special_tokens_have_no_text() {
    for tokenizer in [Tokenizer::bytes().unwrap(), fitted(300)] {
        let end = tokenizer.end_of_text();
        assert_eq!(tokenizer.special(END_OF_TEXT), Some(end));
        let tokens = [&[end], &tokenizer.encode("a").unwrap()[..], &[end]].concat();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), "a");
    }
}

#[test]
fn the_most_frequent_pairs_are_merged_up_to_the_size_of_the_vocabulary() {
    let tokenizer = fitted(290);
    assert_eq!(tokenizer.vocabulary_size(), 290);
    assert_eq!(tokenizer.encode(" the").unwrap().len(), 1);
    assert!(tokenizer.encode(TEXT).unwrap().len() < TEXT.len() / 2);
    assert_eq!(fitted(257).encode(TEXT).unwrap().len(), TEXT.len());
    let all = fitted(100_000).vocabulary_size();
    assert!((290..TEXT.len() + 257).contains(&all), "there are only so many pairs: {all}");
}

#[test]
fn the_same_texts_give_the_same_tokenizer() {
    assert!((0..5).map(|_| fitted(350)).all(|tokenizer| tokenizer.to_json() == fitted(350).to_json()));
}

#[test]
fn a_tokenizer_is_the_same_after_it_was_written_and_read() {
    for tokenizer in [Tokenizer::bytes().unwrap(), fitted(400)] {
        let read = Tokenizer::from_json(tokenizer.to_json(), None).unwrap();
        assert_eq!(read.to_json(), tokenizer.to_json());
        assert_eq!(read.vocabulary_size(), tokenizer.vocabulary_size());
        assert_eq!(read.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap());
    }
}

#[test]
fn the_bytes_are_the_same_to_hugging_face() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_json()).unwrap();
    for text in texts().iter().filter(|text| !text.contains(END_OF_TEXT)) {
        let encoding = theirs.encode(text.as_str(), true).unwrap();
        assert_eq!(encoding.get_ids(), tokenizer.encode(text).unwrap());
        assert_eq!(theirs.decode(encoding.get_ids(), true).unwrap(), *text);
    }
    let with_end = theirs.encode("a<|endoftext|>", true).unwrap();
    assert_eq!(with_end.get_ids(), [97, tokenizer.end_of_text()]);
}

/// A fitted tokenizer after a change of its JSON.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    changed_beside(None, change)
}

/// The same beside a configuration that names the end of a text.
fn changed_beside(end_of_text: Option<u32>, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let mut json = serde_json::from_slice(fitted(290).to_json()).unwrap();
    change(&mut json);
    Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), end_of_text)
}

/// A post-processor that puts a token `x` before a text.
fn template(special: &Value) -> Value {
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let single = json!([{"SpecialToken": {"id": "x", "type_id": 0}}, text("A")]);
    json!({"type": "TemplateProcessing", "single": single, "pair": [text("A"), text("B")], "special_tokens": special})
}

#[test]
fn a_tokenizer_that_lies_is_refused() {
    type Change = fn(&mut Value);
    let lies: [(Change, &str); 18] = [
        (|json| *json = json!([]), "no tokenizer.json"),
        (|json| json["model"]["type"] = json!("Unigram"), "its model is Unigram"),
        (|json| json["model"]["vocab"]["a"] = json!(4_000_000_000_u32), "must be less than"),
        (|json| json["model"]["vocab"]["a"] = json!(-1), "no tokenizer.json"),
        (|json| json["model"]["vocab"]["a"] = json["model"]["vocab"]["b"].clone(), "which another token has too"),
        (|json| json["model"]["vocab"] = json!({}), "it has 0 tokens"),
        (|json| json["model"]["merges"][3] = json!(["no", "such"]), "merge number 3"),
        // Each is a token, and both together are longer than any.
        (|json| json["model"]["merges"][3] = json!(["Ġthe", "Ġthe"]), "merge number 3"),
        (|json| json["model"]["merges"][3] = json!("one"), "merge number 3"),
        (|json| json["model"]["dropout"] = json!(0.5), "by chance"),
        (|json| json["model"]["continuing_subword_prefix"] = json!("###########"), "prefix"),
        (|json| drop(json["model"]["vocab"].as_object_mut().unwrap().remove("~")), "no token for the byte 0x7E"),
        (|json| json["post_processor"] = template(&json!({})), "does not say which tokens"),
        (
            |json| json["post_processor"] = template(&json!({"x": {"id": "x", "ids": [5000], "tokens": ["x"]}})),
            "puts 5000",
        ),
        (|json| json["pre_tokenizer"] = Value::Null, "would drop characters"),
        (|json| json["added_tokens"][0]["id"] = json!(1), "that of another token"),
        (|json| json["added_tokens"][0]["id"] = json!(1000), "does not follow on the others"),
        (|json| json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "Precompiled"),
    ];
    for (lie, part) in lies {
        let error = changed(lie).unwrap_err();
        assert!(matches!(error, TokenizerError::Refused(_)), "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(matches!(Tokenizer::from_json(&vec![b' '; MAX_JSON + 1], None), Err(TokenizerError::TooLarge(_))));
}

#[test]
fn an_older_file_that_does_not_name_the_type_of_its_model_is_read_as_one_that_does() {
    let older = changed(|json| drop(json["model"].as_object_mut().unwrap().remove("type"))).unwrap();
    assert_eq!(older.to_json(), fitted(290).to_json());
    for text in texts() {
        let tokens = older.encode(&text).unwrap();
        assert_eq!(tokens, fitted(290).encode(&text).unwrap());
        assert_eq!(older.decode(&tokens).unwrap(), text);
    }
}

#[test]
fn a_file_without_a_type_that_the_library_reads_as_another_model_is_refused() {
    let error = changed(|json| {
        json["model"].as_object_mut().unwrap().remove("type");
        // The library knows only merges of one kind, and then takes the vocabulary for one of whole words.
        let pair = &json["model"]["merges"][0];
        json["model"]["merges"][0] = json!(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
        json["model"]["unk_token"] = json!("a");
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("none of type BPE"), "{error}");
}

/// The character that stands for a byte in a vocabulary.
fn character(byte: u8) -> String {
    bytes::characters().nth(byte.into()).unwrap().to_string()
}

#[test]
fn characters_with_a_byte_that_no_token_is_for_are_lost_and_counted() {
    let lacking = changed(|json| {
        for byte in [0x0B, 0xF1] {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove(&character(byte)).unwrap();
            vocab.insert(format!("unused {byte}"), id);
        }
    });
    let tokenizer = lacking.unwrap();
    assert_eq!(tokenizer.lacking().to_string(), "0x0B, 0xF1");
    // 0xF1 is the first byte of U+40000; ñ is 0xC3 0xB1.
    for (text, kept, lost) in [("a\u{B}b\u{B}", "ab", 2), ("señor 日本", "señor 日本", 0)] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), kept);
        assert_eq!(tokenizer.lacking().count(text), lost, "{text:?}");
    }
    assert_eq!(tokenizer.lacking().count("a\u{40000}\u{7FFFF}z"), 2);
    assert_eq!(fitted(290).lacking().count("\u{B}\u{40000}"), 0);
}

/// A tokenizer of characters that has tokens for bytes beside, but for these.
fn with_fallback(lacking: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let bytes = (0..=u8::MAX).filter(|byte| !lacking.contains(byte)).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = bytes.chain(["a", "\u{40000}", "<s>", "</s>"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let id = |token: &str| vocab[token].clone();
    let added = |token: &str| json!({"id": id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let json = json!({
        "version": "1.0",
        "added_tokens": [added("<s>"), added("</s>")],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [id("<s>")], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), None)
}

#[test]
fn a_character_that_is_a_token_itself_needs_no_tokens_for_its_bytes() {
    let tokenizer = with_fallback(&[0xF1]).unwrap();
    let text = "a\u{40000}ñ\u{7FFFF}";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), "a\u{40000}ñ");
    assert_eq!(tokenizer.lacking().count(text), 1);
    let error = with_fallback(b"~").unwrap_err().to_string();
    assert!(error.contains("no token for the byte 0x7E"), "{error}");
}

#[test]
fn the_tokens_that_a_post_processor_puts_before_a_text_are_known_and_stay_in_the_file() {
    let tokenizer = with_fallback(&[]).unwrap();
    let begin = [tokenizer.special("<s>").unwrap()];
    assert_eq!(tokenizer.begin_of_text(), begin);
    let tokens = tokenizer.encode("añ").unwrap();
    assert!(!tokens.contains(&begin[0]), "parts of a text do not begin one");

    let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_json()).unwrap();
    assert_eq!(theirs.encode("añ", true).unwrap().get_ids(), [&begin[..], &tokens].concat());
    let read = Tokenizer::from_json(tokenizer.to_json(), None).unwrap();
    assert_eq!((read.begin_of_text(), read.to_json()), (&begin[..], tokenizer.to_json()));
}

#[test]
fn each_kind_of_post_processor_is_asked_what_it_puts_before_a_text() {
    let end = || json!(["<|endoftext|>", 289]);
    let roberta = json!({"type": "RobertaProcessing", "sep": end(), "cls": end(), "trim_offsets": true, "add_prefix_space": false});
    let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let both = json!({"type": "Sequence", "processors": [level.clone(), roberta.clone()]});
    for (post_processor, expected) in [(Value::Null, &[][..]), (level, &[]), (roberta, &[289]), (both, &[289])] {
        let tokenizer = changed(|json| json["post_processor"] = post_processor.clone()).unwrap();
        assert_eq!(tokenizer.begin_of_text(), expected, "{post_processor}");
    }
}

#[test]
fn what_would_cut_or_fill_a_text_is_left_out() {
    let tokenizer = changed(|json| {
        json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({
            "strategy": {"Fixed": 500}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "!",
        });
    });
    assert_eq!(tokenizer.unwrap().encode(TEXT).unwrap(), fitted(290).encode(TEXT).unwrap());
}

#[test]
fn a_tokenizer_without_an_end_of_a_text_gets_one_and_another_name_of_it_is_known() {
    let without = changed(|json| json["added_tokens"] = json!([])).unwrap();
    assert_eq!((without.vocabulary_size(), without.end_of_text()), (290, 289));
    let other = changed(|json| json["added_tokens"][0]["content"] = json!("</s>")).unwrap();
    assert_eq!((other.vocabulary_size(), other.end_of_text(), other.special("</s>")), (290, 289, Some(289)));
    let unusual = |named| changed_beside(named, |json| json["added_tokens"][0]["content"] = json!("<stop>")).unwrap();
    assert_eq!((unusual(Some(289)).vocabulary_size(), unusual(Some(289)).end_of_text()), (290, 289));
    // What it names is no special token.
    assert_eq!((unusual(Some(7)).vocabulary_size(), unusual(Some(7)).end_of_text()), (291, 290));
}
