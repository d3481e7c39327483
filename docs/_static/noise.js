"use strict"
// The numbers of an address, to the last bit: docs/noise.md. A number of JavaScript is a float64, and Math.fround rounds it to
// float32. tests/test_noise_script.py runs this file.
const Noise = (() => {
    // the low half of a product of two words, and its high half: in halves of 16 bits, of which no sum reaches 2^53
    const low = (a, b) => Math.imul(a, b) >>> 0
    const high = (a, b) => {
        const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16
        const middle = a1 * b0 + Math.floor((a0 * b0) / 0x10000)
        return a1 * b1 + Math.floor(middle / 0x10000) + Math.floor(((middle % 0x10000) + a0 * b1) / 0x10000)
    }

    // a block of four random words for a counter of four and a key of two
    const philox = ([c0, c1, c2, c3], [k0, k1]) => {
        for (let round = 0; round < 10; round++) {
            const p = [high(0xd2511f53, c0), low(0xd2511f53, c0)], q = [high(0xcd9e8d57, c2), low(0xcd9e8d57, c2)]
            c0 = (q[0] ^ c1 ^ k0) >>> 0
            c1 = q[1]
            c2 = (p[0] ^ c3 ^ k1) >>> 0
            c3 = p[1]
            k0 = (k0 + 0x9e3779b9) >>> 0
            k1 = (k1 + 0xbb67ae85) >>> 0
        }
        return [c0, c1, c2, c3]
    }

    const halves = number => [Number(number & 0xffffffffn), Number(number >> 32n)]

    // words first .. first + count - 1; seed, sample and first are BigInt, stream and step are numbers
    const words = ({seed, stream, step, sample}, first, count) => {
        const found = []
        for (let e = first; e < first + BigInt(count); e++) {
            const counter = [Number(e >> 2n), ((stream << 28) | step) >>> 0, ...halves(sample)]
            found.push(philox(counter, halves(seed))[Number(e & 3n)])
        }
        return found
    }

    const view = new DataView(new ArrayBuffer(4))
    const bits = x => (view.setFloat32(0, x), view.getUint32(0))
    const float = b => (view.setUint32(0, b), view.getFloat32(0))

    const LOG = [-1.9999995231628418, 0.9999931454658508, -0.6667859554290771, 0.5004311203956604,
        -0.3953063488006592, 0.3243201673030853, -0.3456399142742157, 0.32569175958633423]
    const EVEN = [0.7071067690849304, -0.8723557591438293, 0.17932315170764923, -0.014434946700930595]
    const ODD = [1.1107207536697388, -0.45676571130752563, 0.05634622275829315, -0.003262000158429146]

    const round = Math.fround
    // a float32 times a float32 is exact in float64. The sum is rounded to 53 bits and then to 24, which is one rounding for every
    // input that the normals have (tests/test_noise_exhaustive.py). The square root of a float32 is so always, as processors compute it
    const fma = (a, b, c) => round(a * b + c)
    const polynomial = (coefficients, x) => coefficients.reduceRight((p, c) => fma(p, x, c))

    const normalPair = (u, v) => {
        const b = bits(fma(round(u), 2 ** -32, 2 ** -33))
        const exponent = (b - 0x3f2aaaab) & 0xff800000
        const m = float(b - exponent) - 1
        const r = round(Math.sqrt(fma(exponent, -1.6525916635146132e-7, fma(polynomial(LOG, m), m, 2 ** -40))))
        const x = float((v & 0x7fffff) | 0x3f800001) - 1.5, y = round(x * x)
        const even = polynomial(EVEN, y), odd = polynomial(ODD, y)
        const cos = fma(-x, odd, even), sin = fma(x, odd, even)
        return [round(r * (v >>> 31 ? -cos : cos)), round(r * ((v >>> 30) & 1 ? -sin : sin))]
    }

    // normals 0 .. count - 1 of an address
    const normals = (address, count) => {
        const made = words(address, 0n, count + (count % 2)), found = []
        for (let e = 0; e < count; e += 2) found.push(...normalPair(made[e], made[e + 1]))
        return found.slice(0, count)
    }

    return {philox, words, bits, normalPair, normals}
})()
