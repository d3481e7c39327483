"use strict"
// The form of touch/an_address: what it asks for is computed by noise.js.
{
    const form = document.getElementById("address"), message = form.querySelector("output")
    const canvas = document.getElementById("picture"), rows = document.querySelector("#numbers tbody")
    const limits = {seed: 64n, stream: 4n, step: 28n, sample: 64n}

    const part = name => {
        const text = form.elements[name].value.trim()
        // BigInt reads 0b and 0o as well, and nothing as 0
        const number = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? BigInt(text) : -1n
        if (number < 0n || number >> limits[name]) {
            throw new RangeError(`${name} must be a whole number from 0 to ${2n ** limits[name] - 1n}, got "${text}"`)
        }
        return number
    }
    const hex = word => word.toString(16).padStart(8, "0")

    const show = () => {
        let address
        try {
            address = {seed: part("seed"), stream: Number(part("stream")), step: Number(part("step")), sample: part("sample")}
        } catch (error) {
            if (!(error instanceof RangeError)) throw error
            message.textContent = error.message
            return
        }
        message.textContent = ""
        const normals = Noise.normals(address, canvas.width * canvas.height)
        rows.replaceChildren(...Noise.words(address, 0n, 8).map((word, e) => {
            const row = document.createElement("tr")
            for (const text of [e, hex(word), hex(Noise.bits(normals[e])), normals[e].toPrecision(9)]) {
                row.insertCell().textContent = text
            }
            return row
        }))
        const paper = canvas.getContext("2d"), picture = paper.createImageData(canvas.width, canvas.height)
        // from -3 in black to 3 in white; what is beyond is clamped by the array
        normals.forEach((z, e) => picture.data.set([1, 1, 1].map(() => 127.5 + 42.5 * z).concat(255), 4 * e))
        paper.putImageData(picture, 0, 0)
    }
    form.addEventListener("input", show)
    form.addEventListener("submit", event => event.preventDefault())
    show()
}
