//! How a language model is asked, and where its answer ends: as in the texts that it has learned from.

use stoker_crds::training::text::Text;

use super::{
    Tokenizer, TokenizerError,
    chat::{self, Message, Shape, USER},
    template::end_of_message,
};

/// The tokens that a model of such texts goes on with: a prompt, and where it has learned conversations, the prompt as what the
/// user says and the start of the answer.
///
/// # Errors
/// If the tokenizer cannot encode the prompt.
pub fn prompt_tokens(tokenizer: &Tokenizer, texts: Option<&Text>, prompt: &str) -> Result<Vec<u32>, TokenizerError> {
    if holds_conversations(texts) {
        chat::prompt(tokenizer, &[Message { role: USER.into(), content: prompt.into() }])
    } else {
        Ok([tokenizer.begin_of_text(), &tokenizer.encode(prompt)?].concat())
    }
}

/// The token with which what a model of such texts writes is over: the end of a message, or of a text.
pub fn stop_token(tokenizer: &Tokenizer, texts: Option<&Text>) -> u32 {
    if holds_conversations(texts) { end_of_message(tokenizer) } else { tokenizer.end_of_text() }
}

fn holds_conversations(texts: Option<&Text>) -> bool {
    texts.is_some_and(|texts| Shape::of(texts) == Shape::Conversation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_conversations_is_asked_as_by_a_user_and_any_other_goes_on_with_the_prompt() {
        let tokenizer = Tokenizer::bytes().unwrap();
        let tokens = |texts: Option<&Text>| prompt_tokens(&tokenizer, texts, "Why?").unwrap();
        let conversations = Text { messages: Some("messages".into()), ..Text::default() };
        let asked = tokens(Some(&conversations));
        assert_eq!(tokenizer.decode(&asked).unwrap(), "user\nWhy?assistant\n");
        assert_eq!(asked[9], stop_token(&tokenizer, Some(&conversations)));
        for other in [None, Some(&Text::default())] {
            assert_eq!(tokens(other), tokenizer.encode("Why?").unwrap());
            assert_eq!(stop_token(&tokenizer, other), tokenizer.end_of_text());
        }
    }
}
