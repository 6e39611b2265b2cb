/** Prints the code of each character that has a case, with those of its capital and small letter. */
public class LetterCase {
    public static void main(String[] arguments) {
        StringBuilder listed = new StringBuilder();
        for (int code = 1; code <= Character.MAX_CODE_POINT; code++) {
            int capital = Character.toUpperCase(code), small = Character.toLowerCase(code);
            if (capital != code || small != code)
                listed.append(code + " " + capital + " " + small + "\n");
        }
        System.out.print(listed);
    }
}
