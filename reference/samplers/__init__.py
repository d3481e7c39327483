"""From noise to images: the loop, and one sampler a file, each the function that its file is named after."""
