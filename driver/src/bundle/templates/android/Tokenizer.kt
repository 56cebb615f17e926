// Written by snapc. Byte-level pairs as CLIP's tokenizer has them, read from tokenizer.json.
package __PACKAGE__

import java.text.Normalizer
import java.util.Locale

/** What of tokenizer.json is not its vocabulary. */
internal class TokenizerSettings(
    /** Tokens of a text, padded. */
    val tokens: Int,
    /** Ids before and behind each text. */
    val before: List<Int>,
    val after: List<Int>,
    val padding: Int,
    /** The id of what is not in the vocabulary; none leaves it out. */
    val unknown: Int?,
    /** What ends the last symbol of a word. */
    val suffix: String,
    /** Whether characters are composed (NFC), and put into lower case. */
    val composes: Boolean,
    val lowercases: Boolean,
    /** Tokens that stand for themselves wherever a text has them. */
    val added: List<Pair<String, Int>>,
)

/** Ids, cut and padded, and a mask: 1 for a real token. */
internal class Encoded(val ids: IntArray, val mask: FloatArray)

/** Prompts to ids; [json] is the text of tokenizer.json. */
internal class Tokenizer(json: String, private val settings: TokenizerSettings) {
    private class Merge(val rank: Int, val id: Int)

    private val vocabulary: Map<String, Int>

    /** Of each pair that is joined, when, and what it becomes. */
    private val merges = HashMap<Pair<Int, Int>, Merge>()

    /** How each byte is written in the vocabulary. */
    private val bytes = byteCharacters()

    init {
        val model = (Json(json).value() as? Map<*, *>)?.get("model") as? Map<*, *>
        val vocab = model?.get("vocab") as? Map<*, *>
        val pairs = model?.get("merges") as? List<*>
        if (vocab == null || pairs == null) throw __NAME__Exception.Damaged("tokenizer.json")
        vocabulary = vocab.entries.associate { (token, id) -> token as String to (id as Double).toInt() }
        pairs.forEachIndexed { rank, pair ->
            val parts = if (pair is String) pair.split(" ") else (pair as List<*>).map { it as String }
            val ids = (parts + parts.joinToString("")).map { vocabulary[it] }
            val (left, right, joined) = if (ids.size == 3) ids else listOf(null, null, null)
            if (left == null || right == null || joined == null) throw __NAME__Exception.Damaged("merges: $rank")
            merges[Pair(left, right)] = Merge(rank, joined)
        }
    }

    fun encode(prompt: String): Encoded {
        val room = settings.tokens - settings.before.size - settings.after.size
        val ids = settings.before + pieces(prompt).take(room) + settings.after
        return Encoded(
            IntArray(settings.tokens) { ids.getOrElse(it) { settings.padding } },
            FloatArray(settings.tokens) { if (it < ids.size) 1f else 0f },
        )
    }

    /** The ids of a text: added tokens for themselves, and what is between them word by word. */
    private fun pieces(prompt: String): List<Int> {
        val ids = mutableListOf<Int>()
        var start = 0
        var place = 0
        while (place < prompt.length) {
            val longest = settings.added.filter { prompt.startsWith(it.first, place) }.maxByOrNull { it.first.length }
            if (longest == null) {
                place += 1
                continue
            }
            ids += words(prompt.substring(start, place))
            ids += longest.second
            place += longest.first.length
            start = place
        }
        return ids + words(prompt.substring(start))
    }

    private fun words(text: String): List<Int> {
        val composed = if (settings.composes) Normalizer.normalize(text, Normalizer.Form.NFC) else text
        val normal = if (settings.lowercases) lowercase(composed) else composed
        val ids = mutableListOf<Int>()
        var place = 0
        while (place < normal.length) {
            val length = wordLength(normal, place)
            if (length > 0) ids += joined(normal.substring(place, place + length))
            place += if (length > 0) length else Character.charCount(normal.codePointAt(place))
        }
        return ids
    }

    /** Each character for itself: a sigma that ends a word stays a sigma. */
    private fun lowercase(text: String): String = buildString {
        var place = 0
        while (place < text.length) {
            val character = String(Character.toChars(text.codePointAt(place)))
            append(character.lowercase(Locale.ROOT))
            place += character.length
        }
    }

    private enum class Kind { SPACE, LETTER, NUMBER, OTHER }

    private fun kind(code: Int): Kind = when {
        isSpace(code) -> Kind.SPACE
        Character.isLetter(code) -> Kind.LETTER
        Character.getType(code) in NUMBERS -> Kind.NUMBER
        else -> Kind.OTHER
    }

    /** Unicode's White_Space. */
    private fun isSpace(code: Int): Boolean = code in 9..13 || code == 0x85 || Character.isSpaceChar(code)

    /** How long the word is that begins here: `'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`; 0 for a space. */
    private fun wordLength(text: String, start: Int): Int {
        ENDINGS.firstOrNull { text.startsWith(it, start) }?.let { return it.length }
        val first = kind(text.codePointAt(start))
        var end = start + Character.charCount(text.codePointAt(start))
        if (first == Kind.SPACE) return 0
        if (first == Kind.NUMBER) return end - start
        while (end < text.length && kind(text.codePointAt(end)) == first) {
            end += Character.charCount(text.codePointAt(end))
        }
        return end - start
    }

    /** The ids of a word: its bytes, joined pair by pair, always the pair that was learned first. */
    private fun joined(word: String): List<Int> {
        val symbols = word.toByteArray(Charsets.UTF_8).map { bytes[it.toInt() and 0xff].toString() }
        val ids = symbols.mapIndexedNotNull { index, symbol ->
            vocabulary[if (index + 1 == symbols.size) symbol + settings.suffix else symbol] ?: settings.unknown
        }.toMutableList()
        while (true) {
            var best: Merge? = null
            var place = 0
            for (index in 0 until ids.size - 1) {
                val merge = merges[Pair(ids[index], ids[index + 1])] ?: continue
                if (best == null || merge.rank < best.rank) {
                    best = merge
                    place = index
                }
            }
            if (best == null) return ids
            ids[place] = best.id
            ids.removeAt(place + 1)
        }
    }

    /** Printing bytes stand for themselves, the others for what comes behind 255. */
    private fun byteCharacters(): List<Char> {
        var next = 256
        return (0..255).map { byte ->
            val printing = byte in 33..126 || byte in 161..172 || byte in 174..255
            (if (printing) byte else next++).toChar()
        }
    }

    private companion object {
        val ENDINGS = listOf("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
        val NUMBERS = setOf(
            Character.DECIMAL_DIGIT_NUMBER.toInt(), Character.LETTER_NUMBER.toInt(), Character.OTHER_NUMBER.toInt(),
        )
    }
}

/** Reads JSON: objects as maps, arrays as lists, numbers as doubles. Android's own reader is on no other system. */
internal class Json(private val text: String) {
    private var place = 0

    fun value(): Any? {
        space()
        return when (peek()) {
            '{' -> items('}') {
                val key = string()
                expect(':')
                Pair(key, value())
            }.toMap()
            '[' -> items(']') { value() }
            '"' -> string()
            else -> word()
        }
    }

    /** What stands between brackets, parted by commas. */
    private fun <T> items(end: Char, item: () -> T): List<T> {
        val all = mutableListOf<T>()
        place += 1
        space()
        while (peek() != end) {
            if (all.isNotEmpty()) expect(',')
            space()
            all += item()
            space()
        }
        place += 1
        return all
    }

    private fun word(): Any? {
        val start = place
        while (place < text.length && text[place] !in ",]} \t\r\n") place += 1
        return when (val found = text.substring(start, place)) {
            "null" -> null
            "true" -> true
            "false" -> false
            else -> found.toDoubleOrNull() ?: throw damaged()
        }
    }

    private fun string(): String = buildString {
        expect('"')
        while (peek() != '"') {
            val character = text[place++]
            if (character != '\\') {
                append(character)
                continue
            }
            when (val escaped = text.getOrNull(place++)) {
                'n' -> append('\n')
                't' -> append('\t')
                'r' -> append('\r')
                'b' -> append('\b')
                'f' -> append('\u000c')
                'u' -> {
                    val digits = text.substring(place, minOf(place + 4, text.length))
                    append((digits.toIntOrNull(16) ?: throw damaged()).toChar())
                    place += 4
                }
                null -> throw damaged()
                else -> append(escaped)
            }
        }
        place += 1
    }

    private fun peek(): Char = text.getOrNull(place) ?: throw damaged()

    private fun expect(character: Char) {
        space()
        if (peek() != character) throw damaged()
        place += 1
    }

    private fun space() {
        while (place < text.length && text[place] in " \t\r\n") place += 1
    }

    private fun damaged() = __NAME__Exception.Damaged("tokenizer.json at $place")
}
