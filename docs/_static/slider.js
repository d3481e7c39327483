"use strict"
// A strip of frames (lessons/script.py) becomes one frame and a slider that chooses it.
document.querySelectorAll(".frames").forEach((strip, number) => {
    const frames = JSON.parse(strip.dataset.frames)
    const row = document.createElement("div")
    row.className = "slider"
    row.innerHTML = `<label for="slider-${number}"></label>
        <input id="slider-${number}" type="range" min="0" max="${frames.length - 1}" value="0">
        <output for="slider-${number}"></output>`
    const [label, slider, output] = row.children
    label.textContent = strip.dataset.name
    strip.before(row)
    // nothing is left to scroll by hand
    strip.removeAttribute("tabindex")
    const pictures = [...strip.querySelectorAll("img")].map(picture => [picture, picture.alt])
    const show = () => {
        const frame = frames[slider.value]
        output.textContent = frame
        slider.setAttribute("aria-valuetext", frame)
        pictures.forEach(([picture, alt]) => { picture.alt = `${frame}, of: ${alt}` })
        strip.scrollLeft = slider.value * strip.clientWidth
    }
    slider.addEventListener("input", show)
    window.addEventListener("resize", show)
    show()
})
