// Written by snapc. Prompt to picture with the LiteRT models of the asset packs.
package __PACKAGE__

import android.app.ActivityManager
import android.content.Context
import android.graphics.Bitmap
import android.os.Build
import com.google.android.play.core.assetpacks.AssetPackManagerFactory
import org.tensorflow.lite.Interpreter
import java.io.File
import java.io.FileInputStream
import java.io.FileNotFoundException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import kotlin.math.round

/** Where the models are read from; paths begin with `shared/` or `subnets/`. */
interface Models {
    /** The bytes of a file, mapped. */
    fun map(path: String): ByteBuffer
}

/** A folder with `shared` and `subnets`; what it has not is looked for in [others], as `PackModels(context)`. */
class FolderModels(private val folder: File, private val others: Models? = null) : Models {
    override fun map(path: String): ByteBuffer {
        val file = File(folder, path)
        if (!file.isFile) return others?.map(path) ?: throw __NAME__Exception.Missing(path)
        return FileInputStream(file).use { it.channel.map(FileChannel.MapMode.READ_ONLY, 0, file.length()) }
    }
}

/** The asset packs: one that came with the app is among its assets, others lie where Play put them. */
class PackModels(private val context: Context) : Models {
    override fun map(path: String): ByteBuffer {
        val subnet = Subnet.values().firstOrNull { path.startsWith("subnets/${it.label}/") }
        val pack = Constants.packs[subnet] ?: Constants.sharedPack
        if (!pack.installed) {
            val location = AssetPackManagerFactory.getInstance(context).getPackLocation(pack.name)
            val assets = location?.assetsPath() ?: throw __NAME__Exception.PackMissing(pack.name)
            return FolderModels(File(assets, Constants.ASSETS)).map(path)
        }
        // Assets of packs are not compressed, so they can be mapped.
        val descriptor = try {
            context.assets.openFd("${Constants.ASSETS}/$path")
        } catch (missing: FileNotFoundException) {
            throw __NAME__Exception.Missing(path)
        }
        return descriptor.use { asset ->
            FileInputStream(asset.fileDescriptor).channel
                .map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)
        }
    }
}

/**
 * Draws pictures of prompts, on the thread that calls. One part is in memory at a time: the text encoder, then the transformer, then the
 * decoder.
 *
 * [subnet] is the network that draws, [models] a folder of models; the one that the table of devices names, and the asset packs, where
 * nothing is said.
 */
class __NAME__(
    context: Context,
    val subnet: Subnet = pickSubnet(context),
    private val models: Models = PackModels(context),
    private val threads: Int = 4,
) {
    private val tokenizer: Tokenizer

    init {
        val file = models.map("shared/tokenizer/tokenizer.json")
        val bytes = ByteArray(file.remaining())
        file.get(bytes)
        tokenizer = Tokenizer(String(bytes, Charsets.UTF_8), Constants.tokenizer)
    }

    /**
     * Draws a picture. A prompt that is too long is cut; the same seed gives the same noise as `snapc run --seed`.
     *
     * [negativePrompt] is what it shall not show; without effect where the bundle was not made with guidance. [progress] is told the steps
     * that are done, of how many.
     */
    fun picture(
        prompt: String,
        negativePrompt: String = "",
        seed: Long = 0,
        progress: (Int, Int) -> Unit = { _, _ -> },
    ): Bitmap {
        val texts = texts(prompt, negativePrompt)
        val latent = latent(texts, seed, progress)
        return Network(Constants.vaeDecoder, models, threads).use { image(it.run(mapOf("latent" to latent))) }
    }

    /** What the transformer takes of the prompts. */
    private fun texts(prompt: String, negativePrompt: String): Map<String, Any> {
        val texts = mutableMapOf<String, Any>()
        val prompts = if (Constants.guided) mapOf("" to prompt, "negative_" to negativePrompt) else mapOf("" to prompt)
        Network(Constants.textEncoder, models, threads).use { encoder ->
            for ((prefix, text) in prompts) {
                val encoded = tokenizer.encode(text)
                texts[prefix + "text"] = encoder.run(mapOf("input_ids" to encoded.ids))
                texts[prefix + "text_mask"] = encoded.mask
            }
        }
        return texts
    }

    /** From noise to the last latent. */
    private fun latent(texts: Map<String, Any>, seed: Long, progress: (Int, Int) -> Unit): FloatArray {
        val part = Constants.transformers[subnet] ?: throw __NAME__Exception.Missing(subnet.label)
        val count = Constants.LATENT_COUNT
        val steps = Constants.STEPS
        val noise = Noise(seed)
        var latent = noise.normals(count)
        val inputs = texts.toMutableMap()
        Network(part, models, threads).use { network ->
            if (Constants.unrolled) {
                inputs["noise"] = latent
                if (Constants.stochastic) {
                    for (step in 1 until steps) inputs["noise$step"] = noise.normals(count)
                }
                latent = network.run(inputs)
                progress(steps, steps)
                return latent
            }
            for (step in 0 until steps) {
                inputs["latent"] = latent
                inputs["step"] = intArrayOf(step)
                if (Constants.stochastic) {
                    inputs["noise"] = if (step + 1 == steps) FloatArray(count) else noise.normals(count)
                }
                latent = network.run(inputs)
                progress(step + 1, steps)
            }
        }
        return latent
    }

    /** The picture of the decoder's numbers: planes of red, green and blue in [-1, 1]. */
    private fun image(planes: FloatArray): Bitmap {
        if (planes.any { it.isNaN() || it.isInfinite() }) throw __NAME__Exception.NoImage()
        val places = Constants.HEIGHT * Constants.WIDTH
        val pixels = IntArray(places) { place ->
            (0 until 3).fold(0xff) { pixel, colour ->
                val value = planes[colour * places + place].coerceIn(-1f, 1f)
                (pixel shl 8) or round((value + 1f) * 127.5f).toInt()
            }
        }
        return Bitmap.createBitmap(pixels, Constants.WIDTH, Constants.HEIGHT, Bitmap.Config.ARGB_8888)
    }

    companion object {
        /** The subnet for a device: this one where nothing is said. */
        fun pickSubnet(context: Context, memory: Long = memory(context), chip: String = chip()): Subnet =
            pick(memory, chip)

        /** The asset packs that a subnet needs and that do not come with the app. */
        fun packs(subnet: Subnet): List<String> =
            listOfNotNull(Constants.sharedPack, Constants.packs[subnet]).filter { !it.installed }.map { it.name }

        private fun memory(context: Context): Long {
            val info = ActivityManager.MemoryInfo()
            val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
            manager.getMemoryInfo(info)
            return info.totalMem
        }

        /** The name of this device's chip, as `SM8550`. Before Android 12 there is none. */
        private fun chip(): String = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) Build.SOC_MODEL else ""
    }
}

/** A network in memory. */
private class Network(private val part: Part, models: Models, threads: Int) : AutoCloseable {
    private val interpreter = Interpreter(models.map(part.path), Interpreter.Options().setNumThreads(threads))

    /** Runs it; the numbers of its one output. */
    fun run(values: Map<String, Any>): FloatArray {
        val inputs = mutableMapOf<String, Any>()
        for (port in part.inputs) {
            val buffer = buffer(port.count)
            val value = values[port.name]
            if (port.type == PortType.FLOAT32 && value is FloatArray && value.size == port.count) {
                buffer.asFloatBuffer().put(value)
            } else if (port.type == PortType.INT32 && value is IntArray && value.size == port.count) {
                buffer.asIntBuffer().put(value)
            } else {
                throw __NAME__Exception.Damaged("${part.path}: input ${port.name}")
            }
            inputs[port.name] = buffer
        }
        val output = buffer(part.output.count)
        val outputs = mutableMapOf<String, Any>(part.output.name to output)
        interpreter.runSignature(inputs, outputs, part.signature)
        output.rewind()
        return FloatArray(part.output.count).also { output.asFloatBuffer().get(it) }
    }

    override fun close() = interpreter.close()

    /** Room for so many numbers of four bytes. */
    private fun buffer(count: Int): ByteBuffer = ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder())
}
